"""Who computes which samples, as plain data that every floor speaks, without torch.

The samples of a run are one stream: position p is offset p % size of the permutation of epoch p // size. *Slice* g is its
positions [g * batch, (g + 1) * batch), what one local step takes. A *lease* is a promise of some slices to one worker.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from roadtrain.view import PeerId


class Lease(NamedTuple):
    """Slices first, first + stride, ...: `length` of them. Workers in step with each other each have every so many-th one."""

    first: int
    stride: int
    length: int

    def slices(self) -> range:
        """Their numbers."""
        return range(self.first, self.first + self.stride * self.length, self.stride)


Leases: TypeAlias = tuple[Lease, ...]
WINDOW = 16
"""Where batches are taken in any order: so many slices more a worker holds than it needs, and so many overtake one at most."""


def slices_of(leases: Iterable[Lease]) -> list[int]:
    """All slices of `leases`, in their order."""
    return [number for lease in leases for number in lease.slices()]


def leases_of(slices: Sequence[int]) -> Leases:
    """`slices`, in their order, as few leases: what rises by the same number each time is one."""
    made: list[Lease] = []
    at = 0
    while at < len(slices):
        first, stride = slices[at], 1
        end = at + 1
        if end < len(slices) and slices[end] > first:
            stride = slices[end] - first
            while end < len(slices) and slices[end] - slices[end - 1] == stride:
                end += 1
        made.append(Lease(first, stride, end - at))
        at = end
    return tuple(made)


class Assignment(NamedTuple):
    """What the owner of fragment 0 tells a worker of its work: all `leases` that it holds and has not brought in, the step of the
    run that the state stands for, and whether all samples are in (`finished`)."""

    leases: Leases = ()
    step: int = 0
    finished: bool = False


class WorkRecord(NamedTuple):
    """What a commit changed of the work beside what it brought in: the step that the state stands for, all that each of some
    workers holds now, and what is in no longer (`back`)."""

    step: int
    held: tuple[tuple[PeerId, Leases], ...] = ()
    back: Leases = ()


class WorkState(NamedTuple):
    """The work of a run as it stands. `total`: slices. `step`: of the run, that the state stands for. `done`: runs of slices that
    are in, each [begin, end). `held`: leases that are not. `counted`: the contributions that came in last, of whom what. `last`:
    that of each worker, by clock, where it may not be in in all fragments yet. `shares`: of each worker, as a multiple of the
    mean's, where work is given out by speed."""

    total: int
    step: int = 0
    done: tuple[tuple[int, int], ...] = ()
    held: tuple[tuple[PeerId, Leases], ...] = ()
    counted: tuple[tuple[PeerId, Leases], ...] = ()
    last: tuple[tuple[PeerId, int, Leases], ...] = ()
    shares: tuple[tuple[PeerId, float], ...] = ()


class Runs:
    """A set of whole numbers from 0 on, kept as runs: what is in is nearly always one of them."""

    def __init__(self, runs: Iterable[tuple[int, int]] = ()) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []
        self._count = 0
        for begin, end in runs:
            self.add_run(begin, end)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, int):
            return False
        place = bisect_right(self._begins, number) - 1
        return place >= 0 and number < self._ends[place]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The runs, each [begin, end), from the lowest on."""
        return zip(self._begins, self._ends, strict=True)

    @property
    def end(self) -> int:
        """One more than the highest number."""
        return self._ends[-1] if self._ends else 0

    def add(self, numbers: Iterable[int]) -> None:
        """Add each of these."""
        ordered = sorted(numbers)
        at = 0
        while at < len(ordered):
            end = at + 1
            while end < len(ordered) and ordered[end] <= ordered[end - 1] + 1:
                end += 1
            self.add_run(ordered[at], ordered[end - 1] + 1)
            at = end

    def add_run(self, begin: int, end: int) -> None:
        """Add all of [begin, end)."""
        if begin >= end:
            return
        low, high = bisect_left(self._ends, begin), bisect_right(self._begins, end)
        joined = zip(self._begins[low:high], self._ends[low:high], strict=True)
        self._count -= sum(there - here for here, there in joined)
        if low < high:
            begin, end = min(begin, self._begins[low]), max(end, self._ends[high - 1])
        self._begins[low:high], self._ends[low:high] = [begin], [end]
        self._count += end - begin

    def remove(self, numbers: Iterable[int]) -> None:
        """Take out each of these that is in."""
        for number in sorted(numbers):
            place = bisect_right(self._begins, number) - 1
            if place >= 0 and number < self._ends[place]:
                begin, end = self._begins[place], self._ends[place]
                left = [(low, high) for low, high in ((begin, number), (number + 1, end)) if low < high]
                self._begins[place : place + 1] = [low for low, _ in left]
                self._ends[place : place + 1] = [high for _, high in left]
                self._count -= 1

    def gaps(self, begin: int, end: int) -> list[tuple[int, int]]:
        """What of [begin, end) is not in, as runs."""
        found: list[tuple[int, int]] = []
        place = bisect_right(self._ends, begin)
        while begin < end and place < len(self._begins) and self._begins[place] < end:
            if begin < self._begins[place]:
                found.append((begin, self._begins[place]))
            begin = max(begin, self._ends[place])
            place += 1
        return [*found, (begin, end)] if begin < end else found
