"""Samples by their number, wherever they are made: of a person's dataset, here and at a run's feeders, or of data that feeders
alone have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from roadtrain.data.source import work_of
from roadtrain.feed.work import Made, Work

Upcoming = Callable[[int], Sequence[Work]]
"""The next so many works, or as many as there are."""


class _Works:
    """Of batches that are looked at: random draws in them are the same each time."""

    def __init__(self, name: str, batches: Sequence[Sequence[int]]) -> None:
        self._name, self._batches = name, batches

    def __getitem__(self, some: slice) -> Sequence[Work]:
        return [work_of(self._name, indices, 0) for indices in self._batches[some]]


def spread_over(size: int, count: int) -> list[int]:
    """About `count` numbers of so many samples, the first and the last among them."""
    return sorted({size * part // count for part in range(count)} | {size - 1})


@dataclass(frozen=True, slots=True)
class Samples:
    """`size` samples; `name`: the source that their works name. `batch`: how many make a batch, where their feeder says so, or 0.

    `take`: the batch of the first of `upcoming(n)`. It raises DataFailed for samples that cannot be made, and RunFailed where
    nobody has them any more.
    """

    name: str
    size: int
    take: Callable[[Upcoming], Made]
    batch: int = 0

    def batches(self, batches: Sequence[Sequence[int]], of: range | None = None) -> Iterator[Made]:
        """These batches of samples, in order, each asked for before it is needed. `of`: the numbers of those that are wanted now;
        what follows them is likely to be wanted next."""
        works = _Works(self.name, batches)
        for number in range(len(batches)) if of is None else of:
            yield self.take(lambda count, at=number: works[at : at + count])
