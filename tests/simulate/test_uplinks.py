"""Ownership that follows what lines carry, in virtual time."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from roadtrain.codec import parse as codec
from roadtrain.plan import parse
from roadtrain.simulate import CostWorkload, Faults, Fleet, Quadratic, Simulation
from roadtrain.sync.owner_optimizer import OptimizerSpec
from roadtrain.sync.strategy import strategy_for

from fleets import homes  # isort: skip

SGD = OptimizerSpec(name="sgd", lr=0.01)
STRATEGY = strategy_for(parse('[optimizer]\nname = "sgd"\nlr = 0.01\n[sync]\nstrategy = "ssgd"\n'))
FRAGMENTS = Quadratic((5_000,) * 12).fragments
UPS, DOWNS = (2e5, 2e5, 2e5, 1e7), (1e6, 1e6, 1e6, 1e7)


def simulation(steps: int, faults: Faults, *, sharded: bool = True) -> Simulation:
    """Three homes and a host whose steps take no time."""
    work = CostWorkload(FRAGMENTS, STRATEGY, (codec("none"), codec("none")), 1, SGD)
    fleet = Fleet(topology=homes(UPS, downs=DOWNS), step_s=0.001)
    return Simulation(STRATEGY, work, fleet, steps=steps, faults=faults, sharded=sharded)


def test_three_homes_and_a_host_need_at_most_seven_tenths_of_a_round_of_equal_shares() -> None:
    seconds: list[float] = []
    for rates in ((1.0,), UPS):
        times: list[float] = []
        run = simulation(40, Faults(measurements=((0.5, rates),)))
        run.stepped = lambda worker, run=run, times=times: times.append(run.clock.now) if worker.name == "w0" else None
        assert run.run().finished
        seconds.append((times[-1] - times[-11]) / 10)
    assert seconds[1] <= 0.7 * seconds[0]
    assert Counter(run.view.owners) == {"w3": 12}


def test_a_central_owner_stays() -> None:
    run = simulation(10, Faults(measurements=((0.5, UPS),)), sharded=False)
    assert run.run().finished
    assert set(run.view.owners) == {"w0"}
    assert run.view.number == 1


@pytest.mark.parametrize("seed", range(8))
def test_moves_come_to_their_end_amid_deaths_and_joins(seed: int) -> None:
    random = Random(f"moves {seed}")
    begun = 0.5 + random.random()
    faults = Faults(
        loss=random.choice((0.0, 0.05)),
        jitter_s=random.choice((0.0, 0.05)),
        measurements=((begun, UPS), (begun + 30.0, UPS), (begun + 60.0, UPS)),
        crashes=((begun + 4 * random.random(), random.randrange(3)),),
        joins=(begun + 20.0 + 4 * random.random(),),
        takeovers=random.choice(((), ((begun + 2 * random.random(), 1.0),))),
        held_back=True,
    )
    run = simulation(120, faults)
    assert run.run().finished
    assert Counter(run.view.owners).most_common(1)[0][0] == "w3"
    assert len(run.losses) == 1
