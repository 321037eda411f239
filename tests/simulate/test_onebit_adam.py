"""1-bit Adam, whole runs: how far it gets, and what it sends."""

from __future__ import annotations

from dataclasses import replace

import torch
from fleets import fleet, workload
from torch import Tensor

from roadtrain.plan import Plan, parse
from roadtrain.simulate import Faults, Quadratic, Simulation, Trace
from roadtrain.sync.strategy import strategy_for

STEPS, FREEZE = 200, 40
ADAM = parse(f'[job]\nsteps = {STEPS}\n[optimizer]\nname = "adamw"\nlr = 0.03\nschedule = "cosine"\n')
ONEBIT = replace(ADAM, optimizer=replace(ADAM.optimizer, name="onebit-adam"))


class Noisy(Quadratic):
    """Curvatures a hundredfold apart, and gradients with as much noise; the optimum is at 0."""

    def gradient(self, slot: int, batch: int, fragment: int, values: Tensor) -> Tensor:
        index = torch.arange(values.numel(), dtype=torch.float64)
        scale = 10.0 ** (index % 3)
        generator = torch.Generator().manual_seed(slot + 7 * batch + 1000 * fragment)
        return scale * (values + torch.randn(values.numel(), generator=generator, dtype=torch.float64) / 2)

    def samples(self, slot: int, batch: int) -> int:
        return 1


def run(plan: Plan, steps: int, sizes: tuple[int, ...] = (500, 300), faults: Faults | None = None) -> Trace:
    chosen = strategy_for(plan)
    simulation = Simulation(
        chosen, workload(Noisy(sizes), chosen), fleet(4), steps=steps, faults=faults or Faults(), sharded=True
    )
    trace = simulation.run()
    assert trace.finished
    return trace


def far(trace: Trace) -> float:
    """Root of the mean square distance from the optimum; it begins at about 1."""
    return float(torch.cat(trace.values).square().mean().sqrt())


def test_it_gets_about_as_far_as_adam() -> None:
    adam, onebit = far(run(ADAM, STEPS)), far(run(ONEBIT, STEPS))
    assert adam < 0.1
    assert onebit < 2 * adam, (adam, onebit)
    assert far(run(ONEBIT, FREEZE)) > 3 * onebit, "most of the way lies after the freeze"


def test_a_crash_costs_no_more_than_the_worker() -> None:
    calm, struck = far(run(ONEBIT, STEPS)), far(run(ONEBIT, STEPS, faults=Faults(crashes=((6.05, 0), (13.0, 2)))))
    assert struck < 1.5 * calm, (calm, struck)


def test_bytes_of_a_step_fall_by_thirty_with_two_workers() -> None:
    """Beside a mean and a bit there are headers; with more workers the Records carry all contributions, not only one."""
    chosen = strategy_for(replace(ONEBIT, optimizer=replace(ONEBIT.optimizer, freeze=5)))
    sent: dict[tuple[int, int], int] = {}
    for workers in (2, 4):
        for steps in (5, 10):
            work = workload(Noisy((200_000, 200_000)), chosen)
            trace = Simulation(chosen, work, fleet(workers), steps=steps).run()
            sent[workers, steps] = sum(trace.sent_bytes.values())
    ratio = {workers: sent[workers, 5] / (sent[workers, 10] - sent[workers, 5]) for workers in (2, 4)}
    assert 60 < ratio[2] < 64, "float64 here: twice the 31 of float32"
    assert 45 < ratio[4] < 48
