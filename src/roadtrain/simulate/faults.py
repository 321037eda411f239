"""What goes wrong, as one value: rates of loss and doubling, and workers that die or sleep at given times."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

GAP_S = 8.0
"""Least time between two losses of a drawn schedule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """`crashes`: (time in s, worker). `sleeps`: (time, seconds, worker), long enough to be taken for lost, then back.
    `joins`: times in s at which one more worker comes.

    `detect_s`: from a crash until the coordinator announces the next view; each peer learns of it up to `spread_s` later.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    jitter_s: float = 0.0
    crashes: tuple[tuple[float, int], ...] = ()
    sleeps: tuple[tuple[float, float, int], ...] = ()
    joins: tuple[float, ...] = ()
    detect_s: float = 0.5
    spread_s: float = 0.2

    @staticmethod
    def draw(random: Random, workers: int, span_s: float) -> Faults:
        """A schedule for a run of about `span_s`: at most all workers but one are lost, one at a time.

        Between two losses lies `GAP_S`, the time that a new standby needs to get its snapshot: that is what is promised.
        """
        victims = random.sample(range(workers), random.randint(0, workers - 1))
        offsets = sorted(random.random() * span_s / 2 for _ in victims)
        times = [offset + GAP_S * i for i, offset in enumerate(offsets)]
        sleeping = [random.random() < 0.3 for _ in victims]
        return Faults(
            loss=random.choice((0.0, 0.05, 0.2)),
            duplicate=random.choice((0.0, 0.1)),
            jitter_s=random.choice((0.0, 0.05, 0.3)),
            crashes=tuple((t, v) for t, v, asleep in zip(times, victims, sleeping, strict=True) if not asleep),
            sleeps=tuple(
                (t, 2 + 6 * random.random(), v) for t, v, asleep in zip(times, victims, sleeping, strict=True) if asleep
            ),
        )


NONE = Faults()
"""Nothing goes wrong."""
