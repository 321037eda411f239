"""Whole runs under random faults: every promise of `simulate.invariants` is checked at every step of every run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from random import Random

import pytest
import torch
from fleets import fleet, homes, workload
from hypothesis import given, settings
from hypothesis import strategies as st

from roadtrain.plan import Plan, parse
from roadtrain.simulate import Faults, Fleet, Quadratic, Simulation, Trace
from roadtrain.simulate.chronicle import Chronicle
from roadtrain.simulate.faults import GAP_S, QUIET_S, UPLINKS
from roadtrain.simulate.invariants import (
    Broken,
    Watch,
    check_everywhere,
    check_finished,
    check_rounds,
    check_sum,
    check_work,
)
from roadtrain.simulate.worker import SimulatedWorker
from roadtrain.sync.effects import Effects
from roadtrain.sync.strategy import Aggregation, Payload, Strategy, strategy_for

MOMENTUM = parse('[optimizer]\nname = "sgd"\nlr = 0.1\nmomentum = 0.9\n')
ADAMW = parse('[optimizer]\nname = "adamw"\nlr = 0.01\nweight_decay = 0.1\n')
SGD = parse('[optimizer]\nname = "sgd"\nlr = 0.01\n')


def _plan(base: Plan, strategy: str) -> Plan:
    return replace(base, sync=replace(base.sync, strategy=strategy))


PLANS: dict[str, Plan] = {
    "ssgd": _plan(MOMENTUM, "ssgd"),
    "adamw": _plan(ADAMW, "ssgd"),
    "onebit-adam": parse('[optimizer]\nname = "onebit-adam"\nlr = 0.01\nweight_decay = 0.1\nfreeze = 7\n'),
    "asgd": _plan(SGD, "asgd"),
    "ssp": _plan(SGD, "ssp:2"),
    "localsgd": _plan(SGD, "localsgd:3"),
    "backup": replace(MOMENTUM, sync=replace(MOMENTUM.sync, strategy="ssgd", backup=1)),
    "async-diloco": replace(SGD, sync=replace(SGD.sync, strategy="async-diloco:3", outer_lr=0.7, outer_momentum=0.9)),
    "streaming": replace(
        SGD, sync=replace(SGD.sync, strategy="streaming:3", overlap=1, outer_lr=0.7, outer_momentum=0.9)
    ),
    "warm-up": replace(SGD, sync=replace(SGD.sync, strategy="diloco:3", warmup=8, outer_lr=0.7, outer_momentum=0.9)),
    "diloco": replace(SGD, sync=replace(SGD.sync, strategy="diloco:3", outer_lr=0.7, outer_momentum=0.9)),
    "by-speed": replace(SGD, sync=replace(SGD.sync, strategy="diloco:3", by_speed=True)),
}
WITH_NEWCOMERS = list(PLANS)
SEEDS = 50
"""Schedules of each plan in a normal run."""
SEEDS_ALL = 1120
"""Schedules of each plan with ROADTRAIN_SEEDS=all: over 10,000 in all."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One simulated run: the fleet, what goes wrong, and what is trained how."""

    name: str
    fleet: Fleet
    faults: Faults
    sizes: tuple[int, ...]
    steps: int
    codec: str = "none"
    sharded: bool = True
    seed: int = 0

    @property
    def strategy(self) -> Strategy:
        return strategy_for(PLANS[self.name])

    @property
    def work(self) -> Quadratic:
        """Where contributions are applied in any order, gradients must not depend on values for their sum to be known."""
        pull = 0.0 if self.strategy.aggregation is Aggregation.EACH else 1.0
        return Quadratic(self.sizes, pull=pull, seed=self.seed % 7)

    @staticmethod
    def draw(name: str, seed: int) -> Scenario:
        """The scenario of a seed."""
        random = Random(f"{name} {seed}")
        workers = random.randint(1, 5)
        machines = fleet(
            workers,
            step_s=random.choice((0.05, 0.5)),
            speeds=tuple(random.choice((1.0, 1.0, 3.0)) for _ in range(workers)),
            rate_bytes_per_s=random.choice((None, 1e4)),
            delay_s=random.choice((0.001, 0.05)),
        )
        faults = Faults.draw(random, workers, 20)
        drawn = Scenario(
            name=name,
            fleet=machines,
            faults=faults if name in WITH_NEWCOMERS else replace(faults, joins=()),
            sizes=tuple(random.randint(1, 6) for _ in range(random.randint(1, 5))),
            steps=random.choice((20, 25, 30)),
            codec="none" if name == "onebit-adam" else random.choice(("none", "none", "int8")),
            sharded=random.random() < 0.7,
            seed=seed,
        )
        if random.random() < 0.3:
            ups = tuple(random.choice(UPLINKS) for _ in range(workers))
            return replace(drawn, fleet=replace(machines, topology=homes(ups)))
        return drawn


def play(scenario: Scenario) -> tuple[Watch, Trace]:
    """Run a scenario to its end and check all that is promised. Raises Broken."""
    strategy = scenario.strategy
    work = scenario.work
    simulation = Simulation(
        strategy,
        workload(work, strategy, scenario.codec),
        scenario.fleet,
        steps=scenario.steps,
        sharded=scenario.sharded,
        faults=scenario.faults,
        seed=scenario.seed,
    )
    watch = Watch(strategy, simulation.workers, lambda: simulation.view)
    chronicle = Chronicle(scenario.faults)

    def observe(now: float, worker: SimulatedWorker, effects: Effects) -> None:
        chronicle(now, worker, effects)
        watch(now, worker, effects)

    simulation.observe = observe
    try:
        trace = simulation.run()
        check(scenario, watch, trace)
        if trace.finished and not simulation.conclude():
            raise Broken(f"the run does not come to its end: {simulation.plane.coordinator.phase}")
    except Exception as error:
        error.add_note("\n".join(chronicle.lines()))
        raise
    return watch, trace


def check(scenario: Scenario, watch: Watch, trace: Trace) -> None:
    """All promises, once a run is over. Raises Broken."""
    strategy, work = scenario.strategy, scenario.work
    workers = scenario.fleet.topology.workers
    check_finished(watch, trace, strategy)
    check_work(watch, scenario.steps * workers)
    names = [worker.name for worker in watch.fleet]
    if not (strategy.in_turn or strategy.backup or len(set(names)) < len(names)):
        check_everywhere(watch, trace, strategy, scenario.steps * workers)
    known = not (strategy.backup or trace.faults["returned"])  # which step of a worker makes which of its contributions
    if scenario.codec == "none" and strategy.payload is Payload.GRADIENT and known:
        if strategy.aggregation is Aggregation.EACH:
            check_sum(watch, trace, work, lr=0.01, workers=workers)
        else:
            check_rounds(watch, trace, strategy, work, workers)
    if strategy.aggregation is Aggregation.ROUND:
        check_agreement(trace)


def check_agreement(trace: Trace) -> None:
    """After the last round everyone holds the bits that were published, whatever was compressed."""
    for worker in trace.survivors:
        for fragment, value in enumerate(trace.values):
            if not torch.equal(worker.learner.value(fragment), value):
                raise Broken(
                    f"{worker.name} ends with {worker.learner.value(fragment)} in fragment {fragment}, not {value}"
                )


def sweep(name: str, seeds: range | list[int]) -> Counter[str]:
    """Play the seeds of one plan; returns how often each event was seen."""
    marks: Counter[str] = Counter()
    for seed in seeds:
        scenario = Scenario.draw(name, seed)
        try:
            watch, trace = play(scenario)
        except Exception as error:
            replay = f"python -m pytest tests/simulate/test_sweep.py -k 'random_schedules and {name}' --seed {seed}"
            chronicle = "\n".join(error.__notes__)
            raise AssertionError(f"{name}, seed {seed}: {error}\n{scenario}\n{chronicle}\nreplay: {replay}") from error
        marks.update(watch.marks)
        marks.update(trace.faults)
        marks.update(scenario.faults.counts())
    return marks


@pytest.mark.parametrize("name", PLANS)
def test_promises_hold_under_random_schedules(name: str, only_seed: int | None) -> None:
    if only_seed is not None:
        sweep(name, [only_seed])
        return
    marks = sweep(name, range(SEEDS))
    seen = (
        "Committed",
        "Resent",
        "HandedOff",
        "Synced",
        "Evicted",
        "lost",
        "doubled",
        "views",
        "broken",
        "returned",
        "replaced",
        "moved",
    )
    drawn = [kind for kind in Faults().counts() if kind != "joins" or name in WITH_NEWCOMERS]
    for mark in (*seen, *drawn):
        assert marks[mark] > 0, f"no schedule of {name} has seen {mark}: {marks}"


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(os.environ.get("ROADTRAIN_SEEDS") != "all", reason="thousands of schedules: ROADTRAIN_SEEDS=all")
@pytest.mark.parametrize("name", PLANS)
def test_promises_hold_under_thousands_of_schedules(name: str, record_property: Callable[[str, object], None]) -> None:
    marks = sweep(name, range(SEEDS, SEEDS_ALL))
    counts = ", ".join(f"{count} {mark}" for mark, count in marks.items())
    record_property("counted", f"{name}, {SEEDS_ALL - SEEDS} schedules: {counts}")


@pytest.mark.parametrize("name", PLANS)
def test_the_same_seed_gives_the_same_run(name: str) -> None:
    scenario = replace(
        Scenario.draw(name, 4),
        fleet=fleet(4, step_s=0.2, speeds=(1.0, 1.0, 3.0, 2.0), rate_bytes_per_s=1e4, delay_s=0.02),
        faults=Faults(loss=0.1, duplicate=0.1, jitter_s=0.1, crashes=((1.0, 2),), sleeps=((4.0, 3.0, 1),)),
    )
    _, one = play(scenario)
    _, two = play(scenario)
    _, other = play(replace(scenario, seed=scenario.seed + 7))  # the same work: it depends on the seed modulo 7
    assert one.time_s == two.time_s
    assert one.sent_bytes == two.sent_bytes
    assert one.clocks == two.clocks
    assert one.faults == two.faults
    assert all(torch.equal(a, b) for a, b in zip(one.values, two.values, strict=True))
    assert (other.time_s, other.sent_bytes) != (one.time_s, one.sent_bytes)


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    workers = draw(st.integers(1, 4))
    victims = draw(st.lists(st.integers(0, workers - 1), unique=True, max_size=workers - 1))
    times = list(accumulate(draw(st.floats(0, 6)) + (GAP_S if i else 0.0) for i in range(len(victims))))
    naps = [draw(st.one_of(st.none(), st.floats(0.1, 8))) for _ in victims]
    crashes = tuple((t, v) for t, v, nap in zip(times, victims, naps, strict=True) if nap is None)
    sleeps = tuple((t, nap, v) for t, v, nap in zip(times, victims, naps, strict=True) if nap is not None)
    return Scenario(
        name=draw(st.sampled_from(list(PLANS))),
        fleet=fleet(
            workers,
            step_s=draw(st.sampled_from((0.05, 0.5))),
            speeds=tuple(draw(st.sampled_from((1.0, 3.0))) for _ in range(workers)),
            rate_bytes_per_s=draw(st.sampled_from((None, 1e4))),
            delay_s=draw(st.sampled_from((0.001, 0.05))),
        ),
        faults=Faults(
            loss=draw(st.sampled_from((0.0, 0.05, 0.2))),
            duplicate=draw(st.sampled_from((0.0, 0.1))),
            jitter_s=draw(st.sampled_from((0.0, 0.3))),
            crashes=crashes,
            sleeps=sleeps,
        ),
        sizes=tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))),
        steps=draw(st.integers(1, 20)),
        codec=draw(st.sampled_from(("none", "int8"))),
        sharded=draw(st.booleans()),
        seed=draw(st.integers(0, 10_000)),
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(scenarios())
def test_promises_hold_for_any_fleet(scenario: Scenario) -> None:
    play(scenario)


def test_drawn_losses_are_far_apart() -> None:
    drawn = [Faults.draw(Random(seed), 5, 20) for seed in range(400)]
    for faults in drawn:
        away = (*faults.crashes, *faults.sleeps, *faults.isolations)
        losses = sorted(loss[0] for loss in away)
        assert all(later - earlier >= GAP_S for earlier, later in pairwise(losses))
        slow = [*faults.joins, *(time + seconds for time, seconds, _ in faults.partitions)]
        assert all(loss < time or loss - time >= QUIET_S for loss in losses for time in slow)
    assert max(len(faults.crashes) + len(faults.sleeps) + len(faults.isolations) for faults in drawn) == 4


def test_a_broken_promise_is_told_with_what_came_before() -> None:
    scenario = replace(
        Scenario.draw("ssgd", 0), fleet=fleet(2), codec="none", faults=Faults(crashes=((0.25, 1),)), sizes=(3,)
    )
    strategy = scenario.strategy
    simulation = Simulation(
        strategy, workload(scenario.work, strategy), scenario.fleet, steps=4, faults=scenario.faults
    )
    simulation.observe = chronicle = Chronicle(scenario.faults)
    simulation.run()
    lines = chronicle.lines()
    assert "    0.250 s  ** w1 dies" in lines
    assert any(line.endswith("w0  commits version 1 of fragment 0, from w0, w1") for line in lines)
    assert lines[-1].endswith("loads fragment 0 at version 6, the answer to its clock 6")


def test_a_run_is_over_when_everyone_knows_who_is_left() -> None:
    # w0 sleeps while the rest finish. The run once ended before its heir had heard that the fragments were its own.
    schedules = (
        Scenario(
            name="asgd",
            fleet=fleet(3, step_s=0.5, speeds=(1.0, 1.0, 3.0), rate_bytes_per_s=1e4, delay_s=0.001),
            faults=Faults(jitter_s=0.05, crashes=((3.881, 1),), sleeps=((12.45, 3.29, 0),)),
            sizes=(4, 2),
            steps=20,
            seed=69,
        ),
        Scenario(
            name="localsgd",
            fleet=fleet(2, step_s=0.05, delay_s=0.001),
            faults=Faults(duplicate=0.1, jitter_s=0.3, sleeps=((4.47756, 7.43, 0),)),
            sizes=(4, 3, 4),
            steps=20,
            seed=377,
        ),
    )
    for scenario in schedules:
        play(scenario)


def test_the_checkers_see_a_contribution_that_counts_twice() -> None:
    scenario = replace(Scenario.draw("asgd", 0), faults=Faults(), codec="none")
    watch, trace = play(scenario)
    trace.values[0] = trace.values[0] - 0.01
    with pytest.raises(Broken, match="sum of contributions"):
        check_sum(watch, trace, scenario.work, lr=0.01, workers=scenario.fleet.topology.workers)


def test_the_checkers_see_a_lost_bit() -> None:
    scenario = replace(Scenario.draw("ssgd", 0), faults=Faults(), codec="none")
    watch, trace = play(scenario)
    trace.values[0][0] = torch.nextafter(trace.values[0][0], torch.tensor(9.0, dtype=torch.float64))
    with pytest.raises(Broken, match="plain loop"):
        check_rounds(watch, trace, scenario.strategy, scenario.work, scenario.fleet.topology.workers)


def _come_and_go(name: str, seeds: range) -> int:
    """Play seeds in which workers join; how many of those were there at the end."""
    came = 0
    for seed in seeds:
        random = Random(f"{name} {seed} joins")
        scenario = Scenario.draw(name, seed)
        joins = tuple(sorted(random.random() * 15 for _ in range(random.randint(1, 3))))
        faults = Faults(
            loss=scenario.faults.loss, duplicate=scenario.faults.duplicate, jitter_s=scenario.faults.jitter_s
        )
        try:
            _, trace = play(replace(scenario, faults=replace(faults, joins=joins)))
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}, with joins: {error}") from error
        came += sum(worker.newcomer for worker in trace.survivors)
    return came


@pytest.mark.parametrize("name", WITH_NEWCOMERS)
def test_workers_come_and_go(name: str) -> None:
    """Newcomers are given the state, take part, and all end with the same bits; the checks of the promises watch."""
    assert _come_and_go(name, range(20)) >= 6


@pytest.mark.long
@pytest.mark.parametrize("name", WITH_NEWCOMERS)
def test_workers_come_and_go_for_long(name: str) -> None:
    assert _come_and_go(name, range(12, 200)) >= 90
