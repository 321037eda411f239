"""The warm-up of periods: first everybody agrees after every step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fleets import fleet, workload

from roadtrain.plan import parse
from roadtrain.simulate import Faults, Quadratic, Simulation, Trace
from roadtrain.simulate.tensors import INNER
from roadtrain.sync.owner_optimizer import OptimizerSpec
from roadtrain.sync.strategy import Strategy, strategy_for

MOMENTUM = parse('[optimizer]\nname = "sgd"\nlr = 0.05\nmomentum = 0.9\nweight_decay = 0.01\n')
INNER_MOMENTUM = OptimizerSpec.from_plan(MOMENTUM)
OUTER = {"outer_lr": 0.7, "outer_momentum": 0.9}


class Even(Quadratic):
    """Batches of one size: only then is momentum of a mean the mean of momenta."""

    def samples(self, slot: int, batch: int) -> int:
        return 1


def strategy(name: str, **sync: object) -> Strategy:
    return strategy_for(replace(MOMENTUM, sync=replace(MOMENTUM.sync, strategy=name, **sync)))


def run(chosen: Strategy, steps: int, *, inner: OptimizerSpec = INNER, faults: Faults | None = None) -> Trace:
    work = workload(Even((5, 3, 4)), chosen, inner=inner)
    machines = fleet(3, speeds=(1.0, 2.5, 0.7))
    trace = Simulation(chosen, work, machines, steps=steps, faults=faults or Faults()).run()
    assert trace.finished
    return trace


@pytest.mark.parametrize("name", ["localsgd:7", "diloco:7", "streaming:7"])
def test_nothing_but_warm_up_is_ssgd(name: str) -> None:
    """With an affine optimizer; whatever the outer settings are."""
    outer = {} if name == "localsgd:7" else OUTER
    warm = run(strategy(name, warmup=20, **outer), 20, inner=INNER_MOMENTUM)
    for value, want in zip(warm.values, run(strategy("ssgd"), 20).values, strict=True):
        torch.testing.assert_close(value, want, rtol=0, atol=1e-9)


def test_the_outer_optimizer_begins_after_the_warm_up() -> None:
    chosen = strategy("diloco:4", warmup=3, **OUTER)
    work = Even((5,))
    trace = Simulation(chosen, workload(work, chosen), fleet(2), steps=11).run()
    anchor = work.initial(0)
    outer = torch.optim.SGD([anchor], lr=0.7, momentum=0.9, nesterov=True)
    for steps in ((1,), (2,), (3,), range(4, 8), range(8, 12)):
        ends = [anchor.clone(), anchor.clone()]
        for worker, local in enumerate(ends):
            for step in steps:
                local -= INNER.lr * work.gradient(worker, step, 0, local)
        mean = (ends[0] + ends[1]) / 2
        if len(steps) == 1:
            anchor.copy_(mean)
        else:
            anchor.grad = anchor - mean
            outer.step()
    torch.testing.assert_close(trace.values[0], anchor, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["localsgd:4", "streaming:4"])
def test_bytes_are_those_of_as_many_rounds(name: str) -> None:
    """Four short periods and two long ones, like six long ones: 12 steps in place of 24."""
    warm, plain = run(strategy(name, warmup=4), 12), run(strategy(name), 24)
    assert warm.clocks[0] == plain.clocks[0]
    assert sum(warm.sent_bytes.values()) == pytest.approx(sum(plain.sent_bytes.values()), rel=0.05)


@pytest.mark.parametrize("name", ["localsgd:4", "diloco:4", "streaming:4"])
def test_a_newcomer_goes_on_from_the_step_that_the_state_stands_for(name: str) -> None:
    joins = () if name == "streaming:4" else (0.35, 1.9)
    trace = run(strategy(name, warmup=6), 21, faults=Faults(joins=joins, crashes=((0.6, 1),)))
    assert len(trace.survivors) == 2 + len(joins)
    for worker in trace.survivors:
        assert worker.step == trace.survivors[0].step
        for fragment, value in enumerate(trace.values):
            assert torch.equal(worker.learner.value(fragment), value)
