from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from table import copy, strategy
from torch import Tensor, nn
from torch.optim import Optimizer

from roadtrain.codec import parse as codec
from roadtrain.errors import UsageError
from roadtrain.sync.fragment import Fragment, Piece, fragments_of
from roadtrain.sync.own_optimizer import ELEMENTWISE, specs_of
from roadtrain.sync.owner_optimizer import OptimizerSpec, make_owner_optimizer

SIZE = 12
GRADIENTS = [torch.sin(torch.arange(SIZE, dtype=torch.float64) * k) for k in range(1, 7)]
FRAGMENT = Fragment((Piece("t", 0, SIZE),), torch.float64)
NONE = codec("none")

Make = Callable[[Iterable[Any]], Optimizer]


class Lion(Optimizer):
    """Chen et al. 2023, 2302.06675; nobody's in particular. `coupled`: the step depends on all values."""

    def __init__(
        self, params: Iterable[Any], lr: float = 0.01, betas: tuple[float, float] = (0.9, 0.99), coupled=False
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "coupled": coupled})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                average = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                beta1, beta2 = group["betas"]
                sign = average.mul(beta1).add(p.grad, alpha=1 - beta1).sign_()
                p.add_(sign * (sign.mean() if group["coupled"] else 1), alpha=-group["lr"])
                average.mul_(beta2).add_(p.grad, alpha=1 - beta2)


def start() -> Tensor:
    return torch.linspace(-1, 1, SIZE, dtype=torch.float64)


MADE: list[Make] = [
    *ELEMENTWISE,
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
    lambda p: torch.optim.Adam(
        p, lr=torch.tensor(0.1, dtype=torch.float64), betas=(0.8, 0.9), eps=1e-4, weight_decay=0.1
    ),
    lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
    lambda p: torch.optim.AdamW(p, lr=0.1, maximize=True),
    lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9, centered=True),
    lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.5),
    Lion,
]


@pytest.mark.parametrize("make", MADE)
def test_an_owner_steps_as_the_optimizer_does(make: Make) -> None:
    want = nn.Parameter(start())
    optimizer, theta = make([want]), start()
    (spec,) = specs_of(optimizer)
    rule = make_owner_optimizer(spec, theta)
    for step, gradient in enumerate(GRADIENTS, start=1):
        want.grad = gradient.clone()
        optimizer.step()
        rule.update(theta, gradient, step, 1.0)
    torch.testing.assert_close(theta, want.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", MADE)
def test_a_snapshot_is_all_that_a_successor_needs(make: Make) -> None:
    chosen = replace(strategy(), groups=specs_of(make([nn.Parameter(start())])))
    owner, heir = (chosen.ledger(FRAGMENT, start(), (NONE, NONE)) for _ in range(2))
    copy(heir, owner)
    for clock, gradient in enumerate(GRADIENTS, start=1):
        owner.commit(gradient, clock, lr=0.1 / clock)
        if clock < 4:
            copy(heir, owner)
        else:
            heir.commit(gradient, clock, lr=0.1 / clock)
    assert heir.digest() == owner.digest()


def test_every_group_has_a_rule_and_every_fragment_that_of_its_group() -> None:
    model = nn.Linear(2, 2)
    groups = [{"params": [model.weight], "lr": 0.5}, {"params": [model.bias]}]
    specs = specs_of(torch.optim.SGD(groups, lr=0.25))
    assert specs == (OptimizerSpec(name="sgd", lr=0.5), OptimizerSpec(name="sgd", lr=0.25))
    chosen = replace(strategy(), groups=specs)
    for fragment, lr in zip(fragments_of(model, 1 << 20, {"weight": 0, "bias": 1}), (0.5, 0.25), strict=True):
        book = chosen.ledger(fragment, torch.zeros(fragment.numel), (NONE, NONE))
        book.commit(torch.ones(fragment.numel), 1)
        assert book.theta.tolist() == [-lr] * fragment.numel
    assert chosen.rule_of(replace(FRAGMENT, buffers=True)).name == "average"


class Homemade(torch.optim.Adam):
    """Nobody knows what it does."""


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (torch.optim.LBFGS, "LBFGS"),
        (torch.optim.SparseAdam, "SparseAdam"),
        (torch.optim.Adafactor, "Adafactor"),
        (Homemade, "Homemade"),
        (lambda p: Lion(p, coupled=True), "Lion"),
    ],
)
def test_an_optimizer_that_sees_more_than_one_value_is_refused_by_name(make: Make, name: str) -> None:
    with pytest.raises(UsageError, match=f"optimizer {name} ") as caught:
        specs_of(make([nn.Parameter(start())]))
    assert "ssgd, localsgd, diloco and streaming run it where it is" in caught.value.line()
    assert "\n" not in caught.value.line()
