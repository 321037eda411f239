"""Work by speed: a faster worker takes more local steps between two contributions, so that nobody waits for the slowest.

Contributions say how fast their worker computes; the answer to a round says which share of the next round's work is this
worker's. Shares of all members add up to their number, so a round is as much work as with equal machines.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from roadtrain.sync.strategy import Strategy
from roadtrain.view import PeerId

SHARE_MAX = 1e4
"""No fleet is that uneven; what is above is not believed."""
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


class LoadBalance:
    """How many local steps one worker takes within each step of the run: 1, or by its share of the work.

    `speed`: samples per second while it computes, over its last local steps.
    """

    def __init__(self, strategy: Strategy) -> None:
        self.speed = 0.0
        self._by_speed, self._warmup = strategy.by_speed, strategy.warmup
        self._share = 1.0
        self._credit = 0.0
        self._taken = self._left = 0
        self._samples = self._busy_s = 0.0

    def begin(self, step: int) -> int:
        """How many local steps belong to step 0, 1, ... of the run. What does not make a whole one is kept for the next."""
        self._left = 1
        if self._by_speed and step >= self._warmup:
            self._credit += self._share
            self._left = int(self._credit)
            self._credit -= self._left
        return self._left

    def next_batch(self, step: int) -> int:
        """Which of its batches the worker takes next, within step 0, 1, ... of the run."""
        batch = self._taken if self._by_speed else step
        self._taken += 1
        self._left -= 1
        return batch

    @property
    def last(self) -> bool:
        """Whether the batch that was taken is the last one within this step of the run."""
        return self._left == 0

    def measure(self, samples: int, busy_s: float) -> None:
        """A local step on `samples` took `busy_s`."""
        if self._by_speed and busy_s > 0:
            memory = MEMORY if self._taken > 2 else 0.0  # a first step takes longer than any other
            self._samples = memory * self._samples + samples
            self._busy_s = memory * self._busy_s + busy_s
            self.speed = self._samples / self._busy_s

    def accept(self, share: float) -> None:
        """An answer gave this share of the work."""
        if self._by_speed and 0 < share < SHARE_MAX:
            self._share = share

    def state(self) -> dict[str, Tensor]:
        """What a worker that goes on later must know; nothing where work is not given out by speed."""
        if not self._by_speed:
            return {}
        numbers = {"share": self._share, "credit": self._credit, "taken": self._taken}
        numbers |= {"samples": self._samples, "busy_s": self._busy_s}
        return {name: torch.tensor(number, dtype=torch.float64) for name, number in numbers.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        if not (self._by_speed and state):
            return
        self._share, self._credit, self._taken = float(state["share"]), float(state["credit"]), int(state["taken"])
        self._samples, self._busy_s = float(state["samples"]), float(state["busy_s"])
        self.speed = self._samples / self._busy_s if self._busy_s else 0.0
