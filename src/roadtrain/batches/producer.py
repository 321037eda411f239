"""Whoever makes batches, sans-IO: what workers have asked for, each in its turn."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from roadtrain.batches.consumer import AHEAD_MAX
from roadtrain.batches.work import Work
from roadtrain.view import PeerId

WAITING_MAX = 2 * AHEAD_MAX
"""Most works of one worker that wait: an honest one asks for fewer."""


class Ask(NamedTuple):
    """`worker` wants the batch of `work`, and calls that `number`."""

    worker: PeerId
    number: int
    work: Work


class Producer:
    """The works that wait: the first of each worker in turn."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[PeerId, OrderedDict[int, Ask]] = OrderedDict()

    def ask(self, asked: Ask) -> None:
        """A worker asks; again is as once."""
        mine = self._waiting.setdefault(asked.worker, OrderedDict())
        if len(mine) < WAITING_MAX:
            mine[asked.number] = asked

    def next(self) -> Ask | None:
        """What is to be made now; it waits no longer."""
        for worker, mine in self._waiting.items():
            if mine:
                _, asked = mine.popitem(last=False)
                self._waiting.move_to_end(worker)
                return asked
        return None

    def keep(self, workers: frozenset[PeerId]) -> None:
        """Others than these are gone."""
        for worker in [worker for worker in self._waiting if worker not in workers]:
            del self._waiting[worker]
