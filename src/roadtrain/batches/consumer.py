"""Whoever uses batches, sans-IO: asks feeders ahead, takes what comes in any order, and has each in its turn, or as it comes.

A work is asked of one feeder. It is asked of another one too when that one is lost, or when all wait for it and it does not come:
the same work makes the same batch, so what comes first counts, and what comes again is dropped. How many are asked ahead grows
where the consumer has had to wait, as far as `budget` bytes let it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from roadtrain.batches.work import Made, Work
from roadtrain.view import PeerId

HEDGE_S = 0.25
"""A batch that all wait for, and that does not come for so long beyond what it takes, is asked of another feeder too, and may be
made by the consumer itself."""
FIRST_S = 1.0
"""The same, as long as no feeder has made any."""
AGAIN_S = 10.0
"""So long after the only feeder was asked it is asked once more, if all wait for it, and then after twice as long each time: what
was said to it may be lost, where one of the two was cut off for a while."""
AHEAD_MAX = 64
"""Most batches that are asked ahead."""
BUDGET_BYTES = 256 << 20
"""What batches that wait for their turn may take, unless one is larger."""


@dataclass(slots=True, eq=False)
class Request:
    """A work that somebody is to be asked for. `asked`: of whom, and when. `again_s`: after how long once more. `overtaken`: by
    so many that were to come after it."""

    number: int
    work: Work
    asked: dict[PeerId, float] = field(default_factory=dict[PeerId, float])
    made: Made | None = None
    again_s: float = AGAIN_S
    overtaken: int = 0


class Consumer:
    """Of the batches of one source. `say` sends the request of a work to a feeder, by a number of `numbers`."""

    def __init__(
        self, say: Callable[[PeerId, int, Work], None], numbers: Iterator[int], budget: int = BUDGET_BYTES
    ) -> None:
        self._say, self._numbers, self._budget = say, numbers, budget
        self._feeders: dict[PeerId, int] = {}
        self._refusing: dict[PeerId, int] = {}
        self._given: Counter[PeerId] = Counter()
        self._requests: dict[Work, Request] = {}
        self._by_number: dict[int, Request] = {}
        self._wanted: Sequence[Work] = ()
        self._ahead = 2
        self._takes_s: float | None = None
        self._bytes: float | None = None

    @property
    def feeders(self) -> frozenset[PeerId]:
        """Who can be asked."""
        return frozenset(self._feeders)

    @property
    def depth(self) -> int:
        """How many works to want: the next one, and those asked ahead."""
        most = AHEAD_MAX if self._bytes is None else max(1, int(self._budget / max(1.0, self._bytes)))
        return 1 + min(max(self._ahead, 2 * len(self._feeders)), most)

    @property
    def patience_s(self) -> float:
        """How long it is waited for a batch before it is made otherwise."""
        return FIRST_S if self._takes_s is None else HEDGE_S + 2 * self._takes_s

    # -------------------------------------------------------------------------------------------------- who is there

    def see(self, feeders: Mapping[PeerId, int], now: float) -> None:
        """These are there, in these incarnations, and no others."""
        for feeder, incarnation in list(self._feeders.items()):
            if feeders.get(feeder) != incarnation:
                self._forget(feeder)
        self._feeders = {f: number for f, number in feeders.items() if self._refusing.get(f) != number}
        self._ask(now)

    def _forget(self, feeder: PeerId) -> None:
        """It is at nothing any more."""
        del self._feeders[feeder]
        for request in list(self._by_number.values()):
            if request.asked.pop(feeder, None) is not None:
                self._let_go(request)

    def _let_go(self, request: Request) -> None:
        """Nothing that may still come for it counts, unless it is wanted. What a feeder is at counts against what it is given."""
        wanted = self._requests.get(request.work) is request
        if not wanted and (request.made is not None or not request.asked):
            self._by_number.pop(request.number, None)

    # ------------------------------------------------------------------------------------------------------- asking

    def want(self, works: Sequence[Work], now: float) -> None:
        """These are wanted next, in this order; what was wanted before and is not among them is wanted no longer."""
        self._wanted = works
        kept = set(works)
        for work in [work for work in self._requests if work not in kept]:
            self._let_go(self._requests.pop(work))
        for work in works:
            if work not in self._requests:
                made = self._requests[work] = Request(next(self._numbers), work)
                self._by_number[made.number] = made
        self._ask(now)

    def _ask(self, now: float) -> None:
        """Whatever nobody is at."""
        for work in self._wanted:
            request = self._requests[work]
            if request.made is None and not request.asked:
                feeder = self._least_busy(())
                if feeder is not None:
                    self._ask_of(feeder, request, now)

    def hedge(self, now: float) -> None:
        """All wait for the first that is wanted: ask somebody else for it too, if it has been long."""
        if not self._wanted:
            return
        request = self._requests[self._wanted[0]]
        if request.made is not None or not request.asked:
            return
        silent_s = now - max(request.asked.values())
        other = self._least_busy(request.asked) if silent_s > self.patience_s else None
        if other is not None:
            self._ask_of(other, request, now)
        elif silent_s > max(request.again_s, self.patience_s):
            request.again_s *= 2
            self._ask_of(next(iter(request.asked)), request, now)

    def _ask_of(self, feeder: PeerId, request: Request, now: float) -> None:
        request.asked[feeder] = now
        self._given[feeder] += 1
        self._say(feeder, request.number, request.work)

    def _least_busy(self, but: Mapping[PeerId, float] | tuple[()]) -> PeerId | None:
        busy = dict.fromkeys((feeder for feeder in self._feeders if feeder not in but), 0)
        for request in self._by_number.values():
            for feeder in request.asked if request.made is None else ():
                if feeder in busy:
                    busy[feeder] += 1
        return min(busy, key=lambda feeder: (busy[feeder], self._given[feeder]), default=None)

    # ------------------------------------------------------------------------------------------------------ answers

    def arrived(self, feeder: PeerId, number: int, made: Made, now: float) -> bool:
        """A batch has come; whether it is news."""
        request = self._by_number.get(number)
        if request is None or request.made is not None or feeder not in request.asked:
            return False
        took = now - request.asked[feeder]
        self._takes_s = took if self._takes_s is None else 0.8 * self._takes_s + 0.2 * took
        self._bytes = made.nbytes if self._bytes is None else max(0.9 * self._bytes, float(made.nbytes))
        request.made = made
        self._let_go(request)
        return number in self._by_number

    def refused(self, feeder: PeerId, number: int, now: float) -> bool:
        """A feeder cannot make it: it is asked for nothing more of this source, until it comes anew. Whether that is news."""
        request = self._by_number.get(number)
        if request is None or feeder not in request.asked or feeder not in self._feeders:
            return False
        self._refusing[feeder] = self._feeders[feeder]
        self._forget(feeder)
        self._ask(now)
        return True

    def distrust(self, feeder: PeerId, now: float) -> None:
        """What a feeder makes is something else: nothing of it counts, and it is asked no more, until it comes anew."""
        if feeder in self._feeders:
            self._refusing[feeder] = self._feeders[feeder]
            self._forget(feeder)
        for request in self._requests.values():
            if request.made is not None and request.made.by == feeder:
                request.made = None
        self._ask(now)

    def is_here(self, work: Work) -> bool:
        """Whether it has come."""
        request = self._requests.get(work)
        return request is not None and request.made is not None

    def choices(self, window: int) -> list[Work]:
        """Which of the wanted may be taken next: none is overtaken by more than `window` others. So of 0, the first alone."""
        found: list[Work] = []
        for work in self._wanted:
            found.append(work)
            if self._requests[work].overtaken >= window:
                break
        return found

    def here(self, window: int) -> Work | None:
        """The first of these that has come."""
        return next((work for work in self.choices(window) if self.is_here(work)), None)

    def starved(self) -> None:
        """The consumer has had to wait."""
        self._ahead = min(self._ahead + 1, AHEAD_MAX)

    def take(self, work: Work) -> Made | None:
        """The batch, if it has come; or it is wanted no longer, as the consumer has made it."""
        request = self._requests.pop(work, None)
        if request is None:
            return None
        for other in takewhile(lambda other: other != work, self._wanted):
            self._requests[other].overtaken += 1
        self._wanted = [other for other in self._wanted if other != work]
        self._let_go(request)
        return request.made
