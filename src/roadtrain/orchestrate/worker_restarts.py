"""When a worker on a machine of a fleet is started again: after it has died, at once the first time and then with back-off; and
when it was lost, lives, and does not come back by itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

STRUCK_S = 10.0
"""A lost worker whose process lives has so long to come back by itself."""
PAUSE_S = (0.2, 30.0)
"""Before one that died is started again: the first time, and at most. It doubles while it dies within the latter."""


@dataclass(slots=True)
class Life:
    """Of the worker of one slot: when its process was started last, how soon it may be again, and what has become of it."""

    began_s: float
    pause_s: float = PAUSE_S[0]
    ended_s: float | None = None
    lost_s: float | None = None
    took_part: bool = False


class WorkerRestarts:
    """Of one attempt of a run."""

    def __init__(self) -> None:
        self._lives: dict[int, Life] = {}

    def begin(self, slots: Iterable[int], now: float) -> None:
        """These are started for the first time."""
        self._lives |= {slot: Life(now) for slot in slots}

    def ended(self, slot: int, now: float) -> bool:
        """The process of a slot has ended, as is said again and again: whether it is news."""
        life = self._lives[slot]
        if life.ended_s is not None:
            return False
        life.ended_s = now
        return True

    def due(self, slot: int, now: float, *, lost: bool) -> bool:
        """Whether it is to be started again now; it counts as started then. `lost`: it takes no part at present."""
        life = self._lives[slot]
        life.took_part = life.took_part or not lost  # before that it may take its time
        life.lost_s = (life.lost_s or now) if lost and life.took_part else None
        struck = life.lost_s is not None and now - life.lost_s > STRUCK_S
        died = life.ended_s is not None and now - life.ended_s >= life.pause_s
        if died or struck:
            soon = now - life.began_s < PAUSE_S[1]
            self._lives[slot] = Life(now, min(2 * life.pause_s, PAUSE_S[1]) if soon else PAUSE_S[0])
        return died or struck
