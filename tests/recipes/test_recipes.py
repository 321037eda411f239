from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from roadtrain.plan import RECIPES, Job, Plan, check, load
from roadtrain.trainer.task import Task, held_out, make_task

SMALL = {"layers": 2, "width": 32, "heads": 4, "context": 32}
NAMES = sorted(RECIPES)


def task_of(name: str, seed: int = 0) -> Task:
    return make_task(Plan(job=Job(target=name, seed=seed), settings=SMALL if name == "gpt" else {}))


def model_of(task: Task) -> torch.nn.Module:
    torch.manual_seed(0)
    return task.build()


@pytest.mark.parametrize("name", NAMES)
def test_the_defaults_make_a_plan_that_can_run(name: str) -> None:
    plan = load(name, None, {}, {})
    check(plan)
    assert plan.job.target == name
    assert plan.optimizer.momentum == 0


def test_the_settings_and_the_checks_of_recipes_need_no_torch() -> None:
    code = f"import sys, roadtrain.plan as p; [p.check(p.load(r, None, {{}}, {{}})) for r in {NAMES}]"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls_in_a_few_steps(name: str) -> None:
    task = task_of(name)
    model = model_of(task)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03 if name == "xor" else 0.005)
    before = held_out(task, model)["val_loss"]
    for indices in torch.arange(40 * 64).remainder(1_400).view(40, 64):
        loss = task.loss(model, task.batch(indices))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert held_out(task, model)["val_loss"] < 0.9 * before


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_float32_without_buffers_and_repeats_by_seed(name: str) -> None:
    task = task_of(name)
    one, two = model_of(task), model_of(task)
    assert not list(one.buffers())
    assert {p.dtype for p in one.parameters()} == {torch.float32}
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_a_pure_function_of_its_indices(name: str) -> None:
    task = task_of(name)
    indices = torch.tensor([7, 0, len(task) - 1, 7, 3])
    whole = task.batch(indices)
    assert all(torch.equal(a, b) for a, b in zip(whole, task_of(name).batch(indices), strict=True))
    for row, index in enumerate(indices):
        alone = task.batch(index[None])
        assert all(torch.equal(a[row], b[0]) for a, b in zip(whole, alone, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_the_mean_over_the_batch(name: str) -> None:
    task = task_of(name)
    model = model_of(task)
    both = task.loss(model, task.batch(torch.tensor([4, 9])))
    halves = [task.loss(model, task.batch(torch.tensor([i]))) for i in (4, 9)]
    assert both.shape == ()
    torch.testing.assert_close(both, sum(halves) / 2)


@pytest.mark.parametrize("name", NAMES)
def test_models_in_double_precision_are_trained_and_validated(name: str) -> None:
    task = task_of(name)
    model = model_of(task).double()
    loss = task.loss(model, task.batch(torch.arange(4)))
    loss.backward()
    assert loss.dtype == torch.float64
    assert task.validate(model) == pytest.approx(task.validate(model_of(task)), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_validation_repeats_exactly_and_leaves_no_gradient(name: str) -> None:
    task = task_of(name)
    model = model_of(task)
    assert task.validate(model) == task.validate(model)
    assert all(p.grad is None for p in model.parameters())
