"""Work by speed: a faster worker takes more local steps between two contributions, so that nobody waits for the slowest.

Contributions say how fast their worker computes; the owner of fragment 0 gives out the next round's work by that. Shares of all
members add up to their number, so a round is as much work as with equal machines.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from roadtrain.view import PeerId

SAME = 1.1
"""Machines of one speed differ by so much from one period to the next, above all where they share processors; to follow that
would make others wait."""
MEMORY = 0.98
"""How much of what was measured before stays after one more local step: a whole period counts, not how it ended."""


def shares(speeds: Mapping[PeerId, float]) -> dict[PeerId, float]:
    """The share of each worker of a round as a multiple of the mean's: by speed, or the same for all where all are about as fast.

    Nobody's, unless every worker of the round has said its speed.
    """
    if not next(iter(speeds.values()), 0.0) > 0:  # as in every run that is not by speed: nothing to add up
        return {}
    total, slowest = sum(speeds.values()), min(speeds.values())
    if not slowest > 0 or not total < float("inf"):
        return {}
    if max(speeds.values()) <= SAME * slowest:
        return dict.fromkeys(speeds, 1.0)
    return {worker: len(speeds) * speed / total for worker, speed in speeds.items()}


class Speedometer:
    """How fast one worker computes. `speed`: samples per second while it does, over its last local steps; 0 where work is not
    given out by speed."""

    def __init__(self, *, by_speed: bool) -> None:
        self.speed = 0.0
        self._by_speed = by_speed
        self._taken = 0
        self._samples = self._busy_s = 0.0

    def measure(self, samples: int, busy_s: float) -> None:
        """A local step on `samples` took `busy_s`."""
        if self._by_speed and busy_s > 0:
            self._taken += 1
            memory = MEMORY if self._taken > 2 else 0.0  # a first step takes longer than any other
            self._samples = memory * self._samples + samples
            self._busy_s = memory * self._busy_s + busy_s
            self.speed = self._samples / self._busy_s

    def state(self) -> dict[str, Tensor]:
        """What a worker that goes on later must know; nothing where work is not given out by speed."""
        if not self._by_speed:
            return {}
        numbers = {"taken": self._taken, "samples": self._samples, "busy_s": self._busy_s}
        return {name: torch.tensor(number, dtype=torch.float64) for name, number in numbers.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        if not (self._by_speed and state):
            return
        self._taken = int(state["taken"])
        self._samples, self._busy_s = float(state["samples"]), float(state["busy_s"])
        self.speed = self._samples / self._busy_s if self._busy_s else 0.0
