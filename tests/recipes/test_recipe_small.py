"""The recipes `digits` and `xor`."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import Tensor, nn

from roadtrain.errors import UsageError
from roadtrain.plan import Job, Plan, check
from roadtrain.recipes import digits, digits_task, xor, xor_task
from roadtrain.trainer.task import held_out


def train(
    task: digits_task.Task | xor_task.Task, optimizer: torch.optim.Optimizer, model: nn.Module, batches: Tensor
) -> None:
    for indices in batches:
        loss = task.loss(model, task.batch(indices % len(task)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_digits_learns_in_fifty_steps_of_plain_sgd() -> None:
    torch.manual_seed(0)
    task = digits.make(Plan())
    model = task.build()
    train(task, torch.optim.SGD(model.parameters(), lr=0.05), model, torch.randperm(50 * 64).view(50, 64))
    assert held_out(task, model)["val_loss"] < 0.8


def test_digits_holds_every_fifth_picture_out() -> None:
    task = digits.make(Plan())
    images, labels = digits_task.load()
    seen: list[Tensor] = []
    model = task.build()
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    task.validate(model)
    assert torch.equal(torch.cat(seen), images[::5])
    assert len(task) == len(labels) - len(labels[::5])
    assert torch.equal(task.batch(torch.tensor([0, 4]))[0], images[[1, 6]])


def test_digits_says_what_to_do_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UsageError, match="scikit-learn"):
        digits.make(Plan())


def test_xor_learns_in_a_hundred_steps_of_adam() -> None:
    task = xor.make(Plan())
    model = task.build()
    train(task, torch.optim.Adam(model.parameters(), lr=0.05), model, torch.arange(100 * 512).view(100, 512))
    assert held_out(task, model)["val_loss"] < 0.36


def test_xor_cannot_be_learned_without_the_polynomial_features() -> None:
    task = xor.make(Plan())
    model = task.build()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for indices in torch.arange(50 * 512).view(50, 512):
        inputs, labels = task.batch(indices)
        inputs[:, xor_task.FEATURES :] = 0
        optimizer.zero_grad()
        task.loss(model, (inputs, labels)).backward()
        optimizer.step()
    nn.init.zeros_(next(model.parameters())[:, xor_task.FEATURES :])
    assert held_out(task, model)["val_loss"] > 0.68


def test_xor_features_are_independent_and_normal() -> None:
    x = xor_task.features(torch.arange(5_000), seed=3).double()
    assert x.shape == (5_000, xor_task.FEATURES)
    assert abs(float(x.mean())) < 0.005
    assert abs(float(x.var()) - 1) < 0.01
    assert abs(float((x**4).mean()) - 3) < 0.05
    correlation = torch.corrcoef(x.T) - torch.eye(xor_task.FEATURES)
    assert float(correlation.abs().max()) < 0.08
    assert len(x.unique(dim=0)) == len(x)


def test_xor_labels_and_inputs_follow_from_the_features() -> None:
    inputs, labels = xor.make(Plan()).batch(torch.arange(1_000))
    one, two = inputs[:, 0], inputs[:, 1]
    assert inputs.shape == (1_000, xor_task.INPUTS)
    assert inputs.dtype == labels.dtype == torch.float32
    assert torch.equal(inputs[:, -3:], torch.stack((one**2, two**2, one * two), dim=1))
    assert torch.equal(labels, (one * two < 0).float())
    assert 0.45 < float(labels.mean()) < 0.55


def test_xor_samples_depend_on_the_seed_of_the_job() -> None:
    first, other = (xor.make(Plan(job=Job(seed=seed))).batch(torch.arange(8))[0] for seed in (0, 2**63 - 1))
    assert not torch.equal(first, other)


def test_xor_holds_samples_out_that_no_index_reaches() -> None:
    task = xor.make(Plan())
    model = task.build()
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    task.validate(model)
    held_out = set(torch.cat(seen)[:, 0].tolist())
    rows, _ = task.batch(torch.arange(len(task) - 2_000, len(task)))
    assert len(held_out & set(rows[:, 0].tolist())) < 3


def test_label_noise_flips_its_share_of_the_labels_and_nothing_else() -> None:
    numbers = torch.arange(20_000)
    clean, noisy = xor_task.Task(3).batch(numbers), xor_task.Task(3, label_noise=0.1).batch(numbers)
    assert torch.equal(clean[0], noisy[0])
    wrong = (clean[1] != noisy[1]).double()
    assert abs(float(wrong.mean()) - 0.1) < 0.01
    assert abs(float(wrong[clean[1] == 1].mean()) - 0.1) < 0.015, "whatever the label is"
    assert torch.equal(noisy[1], xor_task.Task(3, label_noise=0.1).batch(numbers)[1])


@pytest.mark.parametrize("share", [0.5, -0.1, math.nan])
def test_a_share_of_wrong_labels_leaves_something_to_learn(share: float) -> None:
    with pytest.raises(UsageError, match="--label-noise must be from 0"):
        check(Plan(job=Job(target="xor"), settings={"label_noise": share}))
