"""The run's ledger: whose contribution holds which samples of which epoch. Nobody's word is written down twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypedDict

from roadtrain.lease import Leases, Runs
from roadtrain.membership.messages import Counted
from roadtrain.view import PeerId

SLICES_MAX = 1 << 24
"""No message tells of more."""


class LedgerLine(TypedDict):
    """Samples [begin, end) of the permutation of an epoch, in one contribution of `worker`."""

    epoch: int
    begin: int
    end: int
    worker: PeerId


class Ledger:
    """What has been written down. `samples`: by worker, since this run began."""

    def __init__(self) -> None:
        self.samples: Counter[PeerId] = Counter()
        self._known: dict[int, Runs] = {}

    def load(self, lines: Iterable[LedgerLine], before: int = 0) -> None:
        """Go on with what another coordinator has written; the first `before` lines are of the run that this one goes on with."""
        for number, line in enumerate(lines):
            self._known.setdefault(line["epoch"], Runs()).add_run(line["begin"], line["end"])
            if number >= before:
                self.samples[line["worker"]] += line["end"] - line["begin"]

    def take(self, said: Counted) -> list[LedgerLine]:
        """What of it is news. Whoever took fragment 0 over says again what came in last."""
        told = sum(lease.length for _, leases in said.contributions for lease in leases)
        if not (said.size and said.batch) or told > SLICES_MAX:
            return []
        lines = [line for worker, leases in said.contributions for line in self._news(said, worker, leases)]
        for line in lines:
            self.samples[line["worker"]] += line["end"] - line["begin"]
        return lines

    def _news(self, said: Counted, worker: PeerId, leases: Leases) -> Iterator[LedgerLine]:
        positions = Runs()
        for lease in leases:
            if lease.first >= 0 and lease.stride > 0:
                for number in lease.slices():
                    positions.add_run(number * said.batch, (number + 1) * said.batch)
        for begin, end in positions:
            for epoch, first, last in by_epoch(begin, end, said.size):
                known = self._known.setdefault(epoch, Runs())
                for low, high in known.gaps(first, last):
                    known.add_run(low, high)
                    yield LedgerLine(epoch=epoch, begin=low, end=high, worker=worker)


def by_epoch(begin: int, end: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Positions [begin, end) of the stream, as (epoch, first, last) within each."""
    while begin < end:
        epoch, first = divmod(begin, size)
        last = min(size, first + end - begin)
        yield epoch, first, last
        begin += last - first
