from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from roadtrain.plan import parse
from roadtrain.sync import elementwise
from roadtrain.sync.owner_optimizer import Average, OptimizerSpec, make_owner_optimizer

START = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
GRADIENTS = [torch.tensor([0.5, 0.1, -1.0], dtype=torch.float64) * k for k in (1.0, -2.0, 0.3, 4.0)]


def test_a_rule_is_the_optimizer_of_the_plan() -> None:
    plan = parse(
        "[job]\nsteps = 50\n"
        '[optimizer]\nname = "adamw"\nlr = 0.25\nweight_decay = 0.5\nbeta2 = 0.9\nwarmup = 3\nschedule = "cosine"\n'
    )
    assert OptimizerSpec.from_plan(plan) == OptimizerSpec(
        name="adamw", lr=0.25, weight_decay=0.5, beta2=0.9, freeze=10, warmup=3, total=50, cosine=True
    )


def test_the_second_moment_is_frozen_after_a_fifth_of_the_steps_or_as_the_plan_says() -> None:
    for steps, said, freeze in ((50, "", 10), (3, "", 1), (50, "freeze = 4", 4)):
        plan = parse(f'[job]\nsteps = {steps}\n[optimizer]\nname = "onebit-adam"\n{said}\n')
        assert OptimizerSpec.from_plan(plan).freeze == freeze


def test_the_learning_rate_warms_up_and_stays() -> None:
    spec = OptimizerSpec(name="sgd", lr=0.8, warmup=4, total=100)
    assert [spec.lr_at(s) for s in (1, 2, 4, 5, 1000)] == pytest.approx([0.2, 0.4, 0.8, 0.8, 0.8])


def test_the_cosine_falls_to_a_tenth_and_stays_there() -> None:
    spec = OptimizerSpec(name="sgd", lr=1.0, warmup=10, total=110, cosine=True)
    assert spec.lr_at(10) == pytest.approx(1.0)
    assert spec.lr_at(60) == pytest.approx(0.55)
    assert spec.lr_at(110) == pytest.approx(0.1)
    assert spec.lr_at(5000) == pytest.approx(0.1)
    rates = [spec.lr_at(s) for s in range(10, 111)]
    assert rates == sorted(rates, reverse=True)
    assert math.isfinite(OptimizerSpec(name="sgd", warmup=10, total=10, cosine=True).lr_at(11))


@pytest.mark.parametrize(
    ("spec", "make"),
    [
        (OptimizerSpec(name="sgd", lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
        (
            OptimizerSpec(name="sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        ),
        (
            OptimizerSpec(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.01),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
        ),
        (
            OptimizerSpec(name="adam", lr=0.1, weight_decay=0.2, beta1=0.8, eps=1e-4),
            lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.2, betas=(0.8, 0.999), eps=1e-4),
        ),
        (
            OptimizerSpec(name="adamw", lr=0.1, weight_decay=0.2, beta2=0.95),
            lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.2, betas=(0.9, 0.95)),
        ),
    ],
)
def test_a_rule_steps_as_torch_does(
    spec: OptimizerSpec, make: Callable[[list[Tensor]], torch.optim.Optimizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elementwise, "TILE", 2)
    theta, want = START.clone(), START.clone()
    rule, optimizer = make_owner_optimizer(spec, theta), make([want])
    for step, gradient in enumerate(GRADIENTS, start=1):
        before = gradient.clone()
        rule.update(theta, gradient, step, 1.0)
        assert torch.equal(gradient, before), "a contribution is not scratch space"
        want.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(theta, want, rtol=0, atol=1e-12)
    assert theta.grad is None
    state = {name: value for name, value in optimizer.state[want].items() if value is not None}
    assert rule.state().keys() == state.keys()
    for name, value in rule.state().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["sgd", "adam", "delayed-nesterov"])
def test_a_learning_rate_that_was_brought_replaces_the_schedule(name: str) -> None:
    thetas = [START.clone() for _ in range(2)]
    scheduled = make_owner_optimizer(OptimizerSpec(name=name, lr=0.5), thetas[0])
    brought = make_owner_optimizer(OptimizerSpec(name=name, lr=7.0, warmup=100, total=200, cosine=True), thetas[1])
    for step, gradient in enumerate(GRADIENTS, start=1):
        scheduled.update(thetas[0], gradient, step, 1.0)
        brought.update(thetas[1], gradient, step, 1.0, lr=0.5)
    assert torch.equal(*thetas)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_two_rules_with_the_same_inputs_hold_the_same_bits(name: str) -> None:
    spec = OptimizerSpec(name=name, lr=0.1, momentum=0.9)
    pair = [START.clone(), START.clone()]
    rules = [make_owner_optimizer(spec, theta) for theta in pair]
    for step, gradient in enumerate(GRADIENTS[:2], start=1):
        rules[0].update(pair[0], gradient, step, 1.0)
    # The second is made of the state of the first, half way.
    pair[1].copy_(pair[0])
    rules[1].load({key: value.clone() for key, value in rules[0].state().items()})
    for step, gradient in enumerate(GRADIENTS[2:], start=3):
        for theta, rule in zip(pair, rules, strict=True):
            rule.update(theta, gradient, step, 1.0)
    assert torch.equal(*pair)


def test_an_average_takes_the_mean_or_a_step_towards_it() -> None:
    theta = START.clone()
    rule = make_owner_optimizer(OptimizerSpec(name="average"), theta)
    assert isinstance(rule, Average)
    mean = torch.tensor([5.0, 5.0, 5.0], dtype=torch.float64)
    rule.update(theta, mean, 1, 0.25)
    assert theta.tolist() == [2.0, -0.25, 3.5]
    rule.update(theta, mean, 2, 1.0)
    assert theta.tolist() == [5.0, 5.0, 5.0]
    assert rule.state() == {}


def test_delayed_nesterov_refreshes_its_momentum_once_every_n_contributions() -> None:
    """Liu et al. 2024, algorithm 3 with c = 0, written out for two workers."""
    lr, beta = 0.5, 0.9
    theta, want = START.clone(), START.clone()
    rule = make_owner_optimizer(OptimizerSpec(name="delayed-nesterov", lr=lr, momentum=beta), theta)
    momentum = torch.zeros(3, dtype=torch.float64)
    for first, second in (GRADIENTS[:2], GRADIENTS[2:]):
        want = want - lr * first / 2
        momentum = beta * momentum + (first + second) / 2
        want = want - lr * (beta * momentum + second / 2)
        rule.update(theta, first, 1, 0.5)
        rule.update(theta, second, 1, 0.5)
    torch.testing.assert_close(theta, want, rtol=0, atol=1e-12)


def test_delayed_nesterov_goes_on_from_its_state_to_the_bit() -> None:
    spec = OptimizerSpec(name="delayed-nesterov", lr=0.5, momentum=0.9)
    one = START.clone()
    rule = make_owner_optimizer(spec, one)
    for gradient in GRADIENTS[:3]:
        rule.update(one, gradient, 1, 0.5)
    other = one.clone()
    heir = make_owner_optimizer(spec, other)
    heir.load({name: value.clone() for name, value in rule.state().items()})
    for theta, each in ((one, rule), (other, heir)):
        each.update(theta, GRADIENTS[3], 1, 0.5)
    assert torch.equal(one, other)
