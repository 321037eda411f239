"""What one worker is to compute: the slices that it holds, in order, and what it has computed that it has not named yet."""

from __future__ import annotations

from collections import deque

from roadtrain.lease import Assignment, Leases, leases_of, slices_of


class WorkQueue:
    """`step`: of the run, that the state stands for which came with the last assignment; `finished`: all samples are in.
    `period`: slices of the present period that are left, where more than those are held."""

    def __init__(self) -> None:
        self.step = 0
        self.finished = False
        self.period = 0
        self._waiting: deque[int] = deque()
        self._taken = self._stride = 0
        self._used: list[int] = []
        self._named: deque[tuple[int, list[int]]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def assign(self, told: Assignment, clock: int, *, in_turn: bool = False) -> None:
        """The owner's word on what this worker holds, with the answer to its contribution of `clock`. What it has computed since
        may not have come to the owner when it said so."""
        while self._named and self._named[0][0] <= clock:
            self._named.popleft()
        known = {number for _, numbers in self._named for number in numbers}.union(self._used)
        self._waiting = deque(number for number in slices_of(told.leases) if number not in known)
        self.step, self.finished = told.step, told.finished
        if not in_turn or not self.period:
            self.period = len(self._waiting)

    @property
    def held(self) -> tuple[int, ...]:
        """What may be computed next, in its order."""
        return tuple(self._waiting)

    def take(self, number: int | None = None) -> int:
        """The slice that is computed next: the first, or this one of those that are held."""
        number = self._waiting[0] if number is None else number
        self._waiting.remove(number)
        self._taken, self._stride = number, number - self._taken
        self._used.append(number)
        self.period -= 1
        return number

    def upcoming(self, count: int, *, likely: bool) -> list[int]:
        """The slices that will be taken next, at most `count`: those that are held and, where `likely` ones are wanted too, what
        follows if it goes on as it went."""
        found = list(self._waiting)[:count]
        while likely and self._stride > 0 and len(found) < count:
            found.append((found[-1] if found else self._taken) + self._stride)
        return found

    def name(self, clock: int, *, in_turn: bool = False) -> Leases:
        """What the contribution of `clock` to fragment 0 was computed on: all since the one before."""
        used, self._used = self._used, []
        if used:
            self._named.append((clock, used))
        if in_turn:
            self.period = len(self._waiting)
        return leases_of(used)

    @property
    def used(self) -> tuple[int, ...]:
        """What has been computed, and is in no contribution."""
        return tuple(self._used)

    def load(self, used: list[int]) -> None:
        """That has been computed already."""
        self._used = list(used)
        self._waiting = deque(number for number in self._waiting if number not in used)
        self.period = len(self._waiting)
