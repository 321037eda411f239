"""What a fleet's machines know of the ways between them, and who measures next (sans-IO).

Each pair is measured by one of the two, and by the other where that one does not reach it; a machine takes part in one
measurement at a time. Pairs that were never measured go first, then those whose measurement is the oldest.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from itertools import combinations
from random import SystemRandom

from roadtrain.membership.regions import NEAR_MS, regions
from roadtrain.orchestrate.machine import Door, MachineLink, Probed, ProbeOrder, Report

REPEAT_S = 600.0
"""So old a measurement is made again."""
SEARCH_S = 0.5
"""Between two looks for what is due, where nothing was heard."""
SEARCHED = 50
"""Of more machines that could measure so many are looked at at a time, drawn at random: each could be in a pair with any."""
WAIT_S = 8.0
"""An order to measure of which nothing is heard for so long has failed."""
Pair = tuple[str, str]
"""Names of two machines, in order."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """`by` measures the way to `to`. `others`: ways to do it where that fails."""

    by: str
    to: str
    order: ProbeOrder
    until_s: float
    others: tuple[Pair, ...]

    @property
    def pair(self) -> Pair:
        """The two, in order."""
        return min(self.by, self.to), max(self.by, self.to)


@dataclass(slots=True)
class Links:
    """`known`: by pair; the caller keeps it (`news`: what was measured since it looked last)."""

    known: dict[Pair, MachineLink]
    news: list[Pair] = field(default_factory=list[Pair])
    _doors: dict[str, Door] = field(default_factory=dict[str, Door])
    _attempts: dict[Pair, Attempt] = field(default_factory=dict[Pair, Attempt])
    _taking_part: dict[str, Attempt] = field(default_factory=dict[str, Attempt])
    """By machine: the one of these that it has a part in."""
    _stale: set[Pair] = field(default_factory=set[Pair])
    """To be measured again, whenever they were."""
    _search_s: float = -math.inf
    """When it is looked for again what is due."""

    # --------------------------------------------------------------------------------------------------- hearing

    def hear(self, machine: str, report: Report, now: float) -> None:
        """What a machine says of its door, and has measured."""
        before = self._doors.get(machine)
        if report.door is None:
            self._doors.pop(machine, None)
        else:
            self._doors[machine] = report.door
        if before != report.door:
            self._search_s = now
            self._stale |= {pair for pair in self.known if machine in pair and before is not None}
        if report.probed is not None:
            self._learn(machine, report.probed, now)

    def forget(self, machine: str) -> None:
        """It has left."""
        self._doors.pop(machine, None)
        for pair in [pair for pair in self.known if machine in pair]:
            del self.known[pair]
        self._end(self._taking_part.get(machine))
        self.news = [pair for pair in self.news if machine not in pair]

    def _learn(self, machine: str, probed: Probed, now: float) -> None:
        attempt = self._taking_part.get(machine)
        if attempt is None or attempt.by != machine or attempt.order.token != probed.token:
            return
        if probed.rtt_ms is None:
            self._failed(attempt.pair, attempt, now)
        else:
            self._measured(attempt.pair, attempt, probed, now)

    def _end(self, attempt: Attempt | None) -> None:
        if attempt is not None and self._attempts.pop(attempt.pair, None) is not None:
            del self._taking_part[attempt.by], self._taking_part[attempt.to]

    def _measured(self, pair: Pair, attempt: Attempt, probed: Probed, now: float) -> None:
        before = self.known.get(pair)
        out, back = (probed.out, probed.back) if attempt.by == pair[0] else (probed.back, probed.out)
        if not attempt.order.rates and before is not None:
            out, back = before.out, before.back
        self._keep(pair, MachineLink(rtt_ms=probed.rtt_ms, out=out, back=back, measured=now))

    def _failed(self, pair: Pair, attempt: Attempt, now: float) -> None:
        """The other way round, where there is one."""
        self._end(attempt)
        if attempt.others:
            self._begin(pair, attempt.others, now, rates=attempt.order.rates)
        if pair not in self._attempts:
            self._keep(pair, MachineLink(rtt_ms=None, out=None, back=None, measured=now))

    def _keep(self, pair: Pair, link: MachineLink) -> None:
        self.known[pair] = link
        self._end(self._attempts.get(pair))
        self._stale.discard(pair)
        self.news.append(pair)
        self._search_s = link.measured

    # ------------------------------------------------------------------------------------------------- who measures

    def tick(self, here: Sequence[str], busy: Set[str], now: float) -> None:
        """Give up what takes too long, and begin what is due. `here`: machines that are heard of; `busy`: those that a run uses,
        whose lines are left to it."""
        staying = {*here}
        for pair, attempt in list(self._attempts.items()):
            if not {*pair} <= staying:
                self._end(attempt)
            elif now > attempt.until_s:
                self._failed(pair, attempt, now)
        if now < self._search_s:
            return
        self._search_s = now + SEARCH_S
        able = [machine for machine in here if machine not in self._taking_part]
        if len(able) > SEARCHED:
            able = SystemRandom().sample(able, SEARCHED)
        for pair in sorted(self._due(able, now), key=self._age):
            if not self._taking_part.keys() & pair:
                self._begin(pair, self._ways(pair), now, rates=not busy & {*pair})

    def _due(self, machines: Iterable[str], now: float) -> list[Pair]:
        pairs = [pair for pair in _pairs(machines) if self._ways(pair)]
        return [pair for pair in pairs if pair in self._stale or self._age(pair) < now - REPEAT_S]

    def _age(self, pair: Pair) -> float:
        known = self.known.get(pair)
        return -math.inf if known is None else known.measured

    def _ways(self, pair: Pair) -> tuple[Pair, ...]:
        """Who may measure, and whom: those with a door can be dialled."""
        one, other = pair
        return tuple((by, to) for by, to in ((one, other), (other, one)) if to in self._doors)

    def _begin(self, pair: Pair, ways: Sequence[Pair], now: float, *, rates: bool) -> None:
        for nth, (by, to) in enumerate(ways):
            if to in self._doors:
                order = ProbeOrder(token=secrets.token_hex(16), door=self._doors[to], rates=rates)
                attempt = Attempt(by, to, order, now + WAIT_S, tuple(ways[nth + 1 :]))
                self._attempts[pair] = self._taking_part[by] = self._taking_part[to] = attempt
                return

    def order_for(self, machine: str) -> ProbeOrder | None:
        """What it is to measure."""
        attempt = self._taking_part.get(machine)
        return attempt.order if attempt is not None and attempt.by == machine else None

    def admits(self, machine: str) -> str:
        """The token of who may measure it; "" for nobody."""
        attempt = self._taking_part.get(machine)
        return attempt.order.token if attempt is not None and attempt.to == machine else ""

    # ------------------------------------------------------------------------------------------------- what is known

    def awaited(self, machines: Iterable[str]) -> bool:
        """Whether some of these have not been measured, and can be."""
        return any(pair not in self.known and self._ways(pair) for pair in _pairs(machines))

    def rtt_ms(self, one: str | None, other: str | None) -> float | None:
        """Between two machines, none of it inside one; None where it is not known."""
        if one is None or other is None:
            return None
        known = self.known.get((min(one, other), max(one, other)))
        return 0.0 if one == other else None if known is None else known.rtt_ms

    def regions(self, machines: Sequence[str]) -> list[tuple[str, ...]]:
        """Which of these machines are near each other, as collectives want it; whoever was not reached is far."""
        found = {pair: link.rtt_ms for pair, link in self.known.items() if link.rtt_ms is not None}
        return regions(machines, {pair: rtt_ms for pair, rtt_ms in found.items() if rtt_ms <= NEAR_MS})


def _pairs(machines: Iterable[str]) -> list[Pair]:
    return list(combinations(sorted(machines), 2))
