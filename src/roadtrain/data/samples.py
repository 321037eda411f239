"""Samples by their number, wherever they are made: of a person's dataset, here and at a run's feeders, or of data that feeders
alone have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from roadtrain.batches.work import Made, Work
from roadtrain.data.source import work_of

Upcoming = Callable[[int], Sequence[Work]]
"""The next so many works, or as many as there are."""


@dataclass(frozen=True, slots=True)
class Samples:
    """`size` samples, None of a stream; `name`: the source that their works name. `batch`: how many make a batch, where their
    feeder says so, or 0.

    `take`: the batch of the first of `upcoming(n)`. It raises DataFailed for samples that cannot be made, and RunFailed where
    nobody has them any more.
    """

    name: str
    size: int | None
    take: Callable[[Upcoming], Made]
    batch: int = 0

    def batches(self, batches: Sequence[Sequence[int]], of: range | None = None) -> Iterator[Made]:
        """These batches of samples, in order, each asked for before it is needed. `of`: the numbers of those that are wanted now;
        what follows them is likely to be wanted next. Random draws in them are the same each time."""

        def works(at: int, wanted: int) -> list[Work]:
            return [work_of(self.name, indices, 0) for indices in batches[at : at + wanted]]

        for number in range(len(batches)) if of is None else of:
            yield self.take(lambda wanted, at=number: works(at, wanted))

    def in_order(self, batch: int) -> Iterator[Made]:
        """All of them, in batches of so many."""
        if self.size is not None:
            yield from self.batches([range(at, min(at + batch, self.size)) for at in range(0, self.size, batch)])
            return

        def works(at: int, wanted: int) -> list[Work]:
            begins = range(at * batch, (at + wanted) * batch, batch)
            return [work_of(self.name, range(begin, begin + batch), 0) for begin in begins]

        for number in count():
            made = self.take(lambda wanted, at=number: works(at, wanted))
            if made.batch is not None:
                yield made
            if ends(made, batch):
                return


def ends(made: Made, asked: int) -> bool:
    """Whether a stream has ended in this batch, of which so many samples were asked for."""
    return made.samples + len(made.bad) < asked


def spread_over(size: int, count: int) -> list[int]:
    """About `count` numbers of so many samples, the first and the last among them."""
    return sorted({size * part // count for part in range(count)} | {size - 1})
