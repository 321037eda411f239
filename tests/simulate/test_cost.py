"""Runs without numbers against the same runs with them: time and bytes must not tell them apart."""

from __future__ import annotations

import pytest

from roadtrain.codec import parse as codec
from roadtrain.plan import parse
from roadtrain.simulate import CostWorkload, Faults, Quadratic, Simulation, TensorWorkload, Trace
from roadtrain.sync.owner_optimizer import OptimizerSpec
from roadtrain.sync.strategy import strategy_for

from fleets import fleet  # isort: skip

INNER = OptimizerSpec(name="sgd", lr=0.01)


class Even(Quadratic):
    """Every batch has eight samples."""

    def samples(self, slot: int, batch: int) -> int:
        return 8


SGD = 'name = "sgd"\nlr = 0.01'
PLANS = [
    *((name, SGD, spec) for name in ("ssgd", "asgd", "ssp:2", "localsgd:3", "diloco:3") for spec in ("none", "int8")),
    ("ssgd", 'name = "onebit-adam"\nfreeze = 4', "none"),
]


@pytest.mark.parametrize(("name", "optimizer", "spec"), PLANS)
def test_nothing_but_the_numbers_is_missing(name: str, optimizer: str, spec: str) -> None:
    plan = parse(f'[optimizer]\n{optimizer}\n[sync]\nstrategy = "{name}"\n')
    problem, codecs = Even((500, 300, 700)), (codec(spec), codec(spec))
    strategy = strategy_for(plan)
    traces: list[Trace] = []
    for work in (
        TensorWorkload(problem, strategy, codecs, INNER),
        CostWorkload(problem.fragments, strategy, codecs, 8, INNER),
    ):
        machines = fleet(4, speeds=(1.0, 2.0, 1.0, 3.0), rate_bytes_per_s=1e5, delay_s=0.01)
        crashes = () if strategy.repeats else ((0.61, 2),)  # a snapshot of its moments has their age too
        simulation = Simulation(strategy, work, machines, steps=12, faults=Faults(crashes=crashes))
        traces.append(simulation.run())
        assert simulation.conclude()
        assert sum(worker.samples for worker in simulation.workers) >= 4 * 12 * 8
    real, cost = traces
    assert cost.finished
    assert cost.clocks == real.clocks
    assert cost.sent_bytes == real.sent_bytes
    assert cost.time_s == pytest.approx(real.time_s, rel=1e-9)
    assert cost.faults == real.faults
