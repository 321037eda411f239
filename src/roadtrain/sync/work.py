"""The work of a run: which slices are in, who holds a lease on which of the others, and which are to be given.

The commit is the truth, a lease is only a promise: a slice is in when a contribution that names it is in at fragment 0. What was
promised to a worker that does not bring it in goes back, and is given first, as the lowest are. An owner that took over may not
know of its predecessor's last promises, and give the same slices again: the contribution that comes first counts, and the other
is left out as a whole.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterable, Mapping

from roadtrain.lease import Assignment, Leases, Runs, WorkState, leases_of, slices_of
from roadtrain.view import PeerId


class WorkPool:
    """Slices 0, 1, ... of a run. `step`: of the run, that the state stands for. `doubtful`: slices that are in here and may have
    to be computed again, as they may not be in everywhere."""

    def __init__(self, state: WorkState) -> None:
        self.total, self.step = state.total, state.step
        self.doubtful = 0
        self._done = Runs(state.done)
        self._held: dict[PeerId, list[int]] = {}
        self._holder: dict[int, PeerId] = {}
        for worker, leases in state.held:
            self._give(worker, (number for number in slices_of(leases) if number < self.total))
        self._next = max(self._done.end, 1 + max(self._holder, default=-1))
        gaps = self._done.gaps(0, self._next)
        self._returned = [s for begin, end in gaps for s in range(begin, end) if s not in self._holder]

    def _give(self, worker: PeerId, slices: Iterable[int]) -> None:
        mine = self._held.setdefault(worker, [])
        for number in slices:
            if number not in self._done and number not in self._holder:
                self._holder[number] = worker
                mine.append(number)

    # ------------------------------------------------------------------------------------------------------ counts

    @property
    def done(self) -> int:
        """Slices that are in."""
        return len(self._done)

    @property
    def finished(self) -> bool:
        """Whether all are in."""
        return len(self._done) - self.doubtful >= self.total

    @property
    def free(self) -> int:
        """Slices that nobody holds, and that are not in."""
        return len(self._returned) + max(0, self.total - self._next)

    @property
    def promised(self) -> int:
        """Slices that somebody holds."""
        return len(self._holder)

    @property
    def holders(self) -> list[PeerId]:
        """Who holds something."""
        return [worker for worker, mine in self._held.items() if mine]

    def held_by(self, worker: PeerId) -> int:
        """Slices that `worker` holds."""
        return len(self._held.get(worker, ()))

    def assignment(self, worker: PeerId) -> Assignment:
        """What `worker` is to be told."""
        return Assignment(self.leases(worker), self.step, self.finished)

    def leases(self, worker: PeerId) -> Leases:
        """All that it holds, in the order in which it was given."""
        return leases_of(self._held.get(worker, ()))

    def state(self) -> WorkState:
        """All of it."""
        held = tuple((worker, self.leases(worker)) for worker, mine in self._held.items() if mine)
        return WorkState(self.total, self.step, tuple(self._done), held)

    # ----------------------------------------------------------------------------------------------------- changes

    def deal(self, counts: Mapping[PeerId, int]) -> None:
        """Give each worker so many slices, as far as there are any: in turn, the lowest first, so that workers that take their
        steps together compute what lies together."""
        for turn in range(max(counts.values(), default=0)):
            for worker, count in counts.items():
                if turn < count and self.free:
                    self._give(worker, [self._lowest()])

    def _lowest(self) -> int:
        if self._returned:
            return self._returned.pop(0)
        self._next += 1
        return self._next - 1

    def may_bring(self, leases: Leases) -> bool:
        """Whether these can come in: each is one of the run, and none is in already."""
        slices = slices_of(leases)
        distinct = len(set(slices)) == len(slices)
        return distinct and all(0 <= number < self.total and number not in self._done for number in slices)

    def bring(self, leases: Leases) -> None:
        """These are in, whoever held them."""
        slices = slices_of(leases)
        self._take_from_holders(slices)
        self._reserve(slices)
        self._done.add(slices)

    def _reserve(self, slices: Collection[int]) -> None:
        """These are not to be given. Who gave them may have been an owner that was lost, so that they are news here."""
        taken = set(slices).intersection(self._returned)
        if taken:
            self._returned = [number for number in self._returned if number not in taken]
        for number in sorted(slices):
            if number >= self._next:
                self._returned.extend(range(self._next, number))
                self._next = number + 1

    def _take_from_holders(self, slices: Collection[int]) -> None:
        by_holder: dict[PeerId, set[int]] = {}
        for number in slices:
            holder = self._holder.pop(number, None)
            if holder is not None:
                by_holder.setdefault(holder, set()).add(number)
        for holder, gone in by_holder.items():
            self._held[holder] = [number for number in self._held[holder] if number not in gone]

    def take_out(self, leases: Leases) -> None:
        """These are in no longer, and are to be computed again."""
        for number in slices_of(leases):
            if number in self._done:
                self._done.remove((number,))
                insort(self._returned, number)

    def give_back(self, worker: PeerId, leases: Leases | None = None) -> None:
        """What of `leases` the worker holds, or all that it does, is free again."""
        mine = self._held.get(worker, [])
        back = list(mine) if leases is None else [s for s in slices_of(leases) if self._holder.get(s) == worker]
        self._take_from_holders(back)
        for number in back:
            insort(self._returned, number)
        if not self._held.get(worker):
            self._held.pop(worker, None)

    def hold(self, worker: PeerId, leases: Leases) -> None:
        """`worker` holds just these, as the owner says, and nobody else does."""
        self.give_back(worker)
        slices = slices_of(leases)
        self._take_from_holders(slices)
        self._reserve(slices)
        self._give(worker, slices)
