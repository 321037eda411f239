"""A worker's part of a loader that is elsewhere: its batches come from feeders, and nobody else has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

from roadtrain.batches.work import Work
from roadtrain.data.source import work_of
from roadtrain.data.supply import Supply
from roadtrain.errors import UsageError
from roadtrain.loop.loader import Sink


@dataclass(frozen=True, slots=True)
class FedShare:
    """Which batches are this worker's: of `batches` in each of `epochs`, counted through, every `world`-th one from `rank` on.
    So where the workers do not divide an epoch, a step reaches into the next one. `source`: what feeders know the loader as."""

    source: str
    rank: int
    world: int
    batches: int
    epochs: int

    @property
    def end(self) -> int:
        """Batches in all."""
        return self.batches * self.epochs


class FedLoader:
    """Hands them out in their order; each counts by its own samples."""

    def __init__(self, share: FedShare, sink: Sink, supply: Supply) -> None:
        self._share, self._sink, self._supply = share, sink, supply

    @property
    def over(self) -> bool:
        """Whether all have been handed out."""
        return self._next() >= self._share.end

    def windows(self, batches: int) -> Iterator[tuple[float, bool]]:
        """As of any loader. Raises UsageError for windows of several: nobody knows the samples of a batch that is not here."""
        if batches != 1:
            raise UsageError("gradients of a loader that is elsewhere cannot be accumulated", "use larger batches")
        return repeat((1.0, True))

    def epoch(self) -> Iterator[Any]:
        """The batches that are left of the epoch that is next."""
        epoch = self._next() // self._share.batches
        while not self.over and self._next() // self._share.batches == epoch:
            made = self._supply.receive(self._share.source, self._upcoming)
            self._sink.took(made.samples)
            at = self._sink.position
            at = replace(at, steps=at.steps + 1)
            number = self._share.rank + at.steps * self._share.world
            self._sink.position = replace(at, epoch=number // self._share.batches, batch=number % self._share.batches)
            yield made.batch

    def _next(self) -> int:
        return self._share.rank + self._sink.position.steps * self._share.world

    def _upcoming(self, count: int) -> Sequence[Work]:
        numbers = range(self._next(), self._share.end, self._share.world)[:count]
        return [work_of(self._share.source, [number], 0) for number in numbers]
