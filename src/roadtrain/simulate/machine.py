"""The machines of a simulation: where they stand, and how long a local step takes on each."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from roadtrain.plan import Straggler, Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Workers w0, w1, ... of `topology`. `step_s`: seconds of one local step at speed 1; `speeds` of each, 1 where empty.
    Who comes later begins with the first speed again.

    `seed`: of what stragglers draw; a real run with that seed draws the same.
    """

    topology: Topology
    step_s: float = 0.1
    speeds: tuple[float, ...] = ()
    stragglers: tuple[Straggler, ...] = ()
    seed: int = 0

    def step_time(self, worker: int, step: int) -> float:
        """Seconds that step 0, 1, ... takes on this machine, stragglers included."""
        base = self.step_s / (self.speeds[worker % len(self.speeds)] if self.speeds else 1.0)
        slow = [straggler for straggler in self.stragglers if straggler.worker == worker]
        if not slow:
            return base
        draw = Random(f"{self.seed} {worker} {step}").gauss(0.0, 1.0)  # as the trainer draws
        return base + sum(straggler.delay_s(step, base, draw) for straggler in slow)
