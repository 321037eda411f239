"""Which steps of a script's optimizers count."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import SGD, Optimizer

from roadtrain.torchrun import skipped_steps
from roadtrain.torchrun.optimizers import Optimizers, Together
from roadtrain.torchrun.skipped_steps import count_skipped


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Optimizers:
    monkeypatch.setattr(Optimizer, "__init__", Optimizer.__init__)  # to be as it was at the end
    for name in ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks"):
        monkeypatch.setattr(sys.modules[Optimizer.__module__], name, OrderedDict[int, object]())
    for name in ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks"):
        monkeypatch.setattr(skipped_steps, name, getattr(sys.modules[Optimizer.__module__], name))
    monkeypatch.setattr(GradScaler, "step", GradScaler.step)
    optimizers = Optimizers()
    optimizers.watch()
    return optimizers


def ids(*modules: nn.Module) -> set[int]:
    return {id(parameter) for module in modules for parameter in module.parameters()}


def counted(together: Together) -> list[Optimizer]:
    """The optimizers whose steps count, in the order of these, once for each hook."""
    found = list[Optimizer]()

    def hook(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(optimizer)

    together.register_step_pre_hook(hook)
    together.register_step_post_hook(hook)
    return found


def test_the_one_that_steps_first_counts_for_all(made: Optimizers) -> None:
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    first, second = SGD(one.parameters(), 0.1), SGD(other.parameters(), 0.2)
    together = Together(made, ids(one, other))
    found = counted(together)
    for _ in range(3):
        second.step()
        first.step()
    assert found == [second] * 6
    assert [group["lr"] for group in together.param_groups] == [0.1, 0.2]


def test_one_that_takes_the_place_of_another_is_counted_by(made: Optimizers) -> None:
    model = nn.Linear(2, 2)
    first = SGD(model.parameters(), 0.1)
    found = counted(Together(made, ids(model)))
    first.step()
    second = SGD(model.parameters(), 0.1)
    for _ in range(3):
        second.step()
    assert found == [first] * 2 + [second] * 4


def test_steps_of_something_else_do_not_count(made: Optimizers) -> None:
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    own, strange = SGD([*model.parameters(), *other.parameters()], 0.1, momentum=0.9), SGD(other.parameters(), 0.1)
    together = Together(made, ids(model))
    found = counted(together)
    for _ in range(3):
        strange.step()
    assert found == []
    assert [len(group["params"]) for group in together.param_groups] == [2]
    model(torch.ones(1, 2)).sum().backward()
    own.step()
    assert set(together.state) == set(model.parameters())
    together.state.clear()
    assert not own.state


def test_a_step_that_is_left_out_counts(made: Optimizers) -> None:
    model = nn.Linear(2, 2)
    optimizer = SGD(model.parameters(), 0.1)
    found = counted(Together(made, ids(model)))
    count_skipped()
    before, scaler = model.weight.detach().clone(), GradScaler("cpu", init_scale=8.0)
    for value in (float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale(model(torch.full((1, 2), value)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(model.weight, before) == (value == float("inf"))
    assert found == [optimizer] * 4
