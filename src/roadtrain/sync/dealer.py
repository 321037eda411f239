"""Who is given how much of the work, and when: the rules of each strategy, where fragment 0 is owned or stood by.

| strategies | a worker is given | when |
|---|---|---|
| rounds | the next period's slices, by speed its share of them | it was in the round that has been committed |
| rounds in turn | likewise, of the period after the next: it trains on while a round is under way | likewise |
| each at once | what it lacks until its next answer | its contribution has been committed |

A newcomer abstains from the round that is open, as nobody waits for it there; where contributions are applied as they come, it is
given something when it asks for the state.

Towards the end, where contributions count one by one, nobody is given more than its part of what is left, by what it has brought
in so far: else all would wait for the slowest.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from roadtrain.lease import Assignment, Leases, WorkRecord, WorkState, leases_of, slices_of
from roadtrain.message import Part, Push
from roadtrain.sync.load_balance import shares
from roadtrain.sync.strategy import Aggregation, Payload, Strategy
from roadtrain.sync.work import WorkPool
from roadtrain.view import FragmentId, PeerId, View

ALONE = 64
"""Slices that a worker is given at once which steps by itself and has nobody to agree with."""
REMEMBERED = 4096
"""Contributions that came in last, and are told again by whoever takes over: more than can be on their way to be written."""


class WorkTerms(NamedTuple):
    """The work that a run begins with. `workers`: slices of a step. `begun`: (step, clock) of the state that it begins with.
    `window`: slices that each worker holds beyond what it needs, so that it may choose."""

    state: WorkState
    workers: int
    begun: tuple[int, int] = (0, 0)
    window: int = 0


def _shortened(counts: Mapping[PeerId, int], free: int) -> dict[PeerId, int]:
    """`counts`, or as many as are free in the same proportion: a last round by speed."""
    wanted = sum(max(0, count) for count in counts.values())
    if wanted <= free:
        return dict(counts)
    exact = {worker: max(0, count) * free / wanted for worker, count in counts.items()}
    whole = {worker: int(count) for worker, count in exact.items()}
    short = sorted(exact, key=lambda worker: whole[worker] - exact[worker])[: free - sum(whole.values())]
    return {worker: count + (worker in short) for worker, count in whole.items()}


def first_assignment(terms: WorkTerms, strategy: Strategy, view: View, me: PeerId) -> Assignment:
    """What the worker `me` of a run's first view begins with: nobody need tell it."""
    dealer = Dealer(terms, strategy, len(view.owners))
    dealer.begin(view.peers)
    return dealer.pool.assignment(me)


class Dealer:
    """The work of a run under `strategy`, cut into `fragments`."""

    def __init__(self, terms: WorkTerms, strategy: Strategy, fragments: int) -> None:
        self.pool = WorkPool(terms.state)
        self._terms, self._strategy, self._fragments = terms, strategy, fragments
        self._rounds = strategy.aggregation is Aggregation.ROUND
        self._ahead = strategy.payload is Payload.GRADIENT and strategy.staleness is None
        self._shares: Mapping[PeerId, float] = dict(terms.state.shares)
        self._credits: dict[PeerId, float] = {}
        self._changed: set[PeerId] = set()
        self._back: set[int] = set()
        self._last: dict[PeerId, tuple[int, Leases]] = {}
        self._doubts: dict[PeerId, tuple[int, Leases]] = {}
        self._advances: dict[PeerId, int] = {}
        self._rest = 0
        self._brought: Counter[PeerId] = Counter()
        self._since: dict[PeerId, int] = {}
        self._counted: deque[tuple[PeerId, Leases]] = deque(terms.state.counted, maxlen=REMEMBERED)
        self._unconfirmed: deque[tuple[int, PeerId, Leases]] = deque()

    # -------------------------------------------------------------------------------------------------------- periods

    def _period(self, contribution: int) -> int:
        """Steps of the run in contribution 1, 2, ... to fragment 0 since it began."""
        step = self._terms.begun[0]
        if self._strategy.in_turn:
            ends = [self._strategy.step_of_turn(0, self._fragments, c, step) for c in (contribution - 1, contribution)]
        else:
            ends = [self._strategy.steps_of(c, step) for c in (contribution - 1, contribution)]
        return ends[1] - ends[0]

    def _each_at_once(self) -> int:
        """Slices that a worker wants to hold whose contributions are applied as they come."""
        length = 1 if self.pool.step < self._strategy.warmup else self._strategy.every
        return (2 * length if self._ahead else length) + self._terms.window

    # --------------------------------------------------------------------------------------------------------- dealing

    def begin(self, members: Sequence[PeerId]) -> None:
        """The first deal. All peers make it alike, so that nobody has to be told."""
        self.keep(members)
        self._deal({worker: self._first(worker) - self.pool.held_by(worker) for worker in members})
        self._changed.clear()

    def _first(self, worker: PeerId) -> int:
        """What it begins with."""
        if not self._rounds:
            return self._each_at_once()
        first = self._count_of(worker, 1) + self._terms.window
        if not self._strategy.in_turn:
            return first
        self._advances[worker] = advance = self._count_of(worker, 2)
        return first + advance

    def _deal(self, counts: Mapping[PeerId, int]) -> None:
        for worker in counts:
            self._since.setdefault(worker, self.pool.done)
        before = {worker: self.pool.held_by(worker) for worker in counts}
        self.pool.deal(counts)
        self._changed.update(worker for worker in counts if self.pool.held_by(worker) != before[worker])

    def close_round(self, pushes: Sequence[tuple[PeerId, Push]], version: int) -> None:
        """The round that made `version` is committed: its workers are given the next period."""
        self.pool.step += max((push.steps for _, push in pushes), default=0)
        self._changed.update(worker for worker, _ in pushes)
        self._shares = shares({worker: push.speed for worker, push in pushes})
        following = version - self._terms.begun[1] + (2 if self._strategy.in_turn else 1)
        counts = {worker: self._next_period(worker, following) for worker, _ in pushes}
        self._deal(_shortened(counts, self.pool.free) if self._shares else counts)

    def _count_of(self, worker: PeerId, contribution: int) -> int:
        """Its slices of that period. What does not make a whole one is kept for the next."""
        count = self._period(contribution)
        if self._strategy.by_speed and count > 1:
            credit = self._credits.get(worker, 0.0) + self._shares.get(worker, 1.0) * count
            count = int(credit)
            self._credits[worker] = credit - count
        return count

    def _next_period(self, worker: PeerId, contribution: int) -> int:
        """What it lacks of that period."""
        count, held = self._count_of(worker, contribution), self.pool.held_by(worker) - self._terms.window
        if not self._strategy.in_turn:
            return count - held
        advance = self._advances.get(worker, count)  # the next period's, which it holds already
        self._advances[worker] = count
        return advance + count - held

    def top_up(self, worker: PeerId, members: Collection[PeerId]) -> None:
        """What it lacks until its next answer, of contributions that are applied as they come."""
        held = self.pool.held_by(worker)
        left = self.pool.free + self.pool.promised
        wanted = min(self._each_at_once(), round(left * self._part_of(worker, len(members))))
        if held == self.pool.promised:  # or nobody would go on
            wanted = max(wanted, 1)
        self._deal({worker: wanted - held})

    def _part_of(self, worker: PeerId, members: int) -> float:
        """Its part of what has come in since it was given something first."""
        all_of_it = self.pool.done - self._since.get(worker, self.pool.done)
        return self._brought[worker] / all_of_it if all_of_it else 1 / max(1, members)

    def newcomer(self, worker: PeerId, members: Collection[PeerId]) -> None:
        """It is about to be given the state."""
        if not self._rounds:
            self.top_up(worker, members)

    def late(self, worker: PeerId, push: Push, version: int) -> None:
        """Its contribution came when the round had closed: what it computed is not in, and it goes on with the others."""
        self.pool.give_back(worker, push.leases)
        self._changed.add(worker)
        following = version - self._terms.begun[1] + (2 if self._strategy.in_turn else 1)
        self._deal({worker: self._period(following) + self._terms.window - self.pool.held_by(worker)})

    def alone(self, worker: PeerId, leases: Leases, steps: int) -> Assignment:
        """`worker`, which is alone, has computed `leases` in so many steps, and contributes nothing."""
        self.pool.bring(leases)
        self._count(0, worker, leases)
        self.pool.step += steps
        self._deal({worker: ALONE - self.pool.held_by(worker)})
        return self.pool.assignment(worker)

    # ------------------------------------------------------------------------------------------------------ coming in

    def admits(self, push: Push) -> bool:
        """Whether its contribution may count: it names what it was computed on, and none of that is in."""
        return not push.weight or (bool(push.leases) and self.pool.may_bring(push.leases))

    def bring(self, worker: PeerId, push: Push) -> None:
        """It is in. What was refused, as it is not finite, would only be so again."""
        self.pool.bring(push.leases)
        self._note_last(worker, push.clock, push.leases)
        self._back.difference_update(slices_of(push.leases))
        count = sum(lease.length for lease in push.leases)
        self._brought[worker] += count
        self._changed.add(worker)
        if not self._rounds:
            steps, self._rest = divmod(self._rest + count, self._terms.workers)
            self.pool.step += steps

    def _note_last(self, worker: PeerId, clock: int, leases: Leases) -> None:
        """Whoever contributes has been answered for all before, so that was in everywhere."""
        self._last.pop(worker, None)
        if leases:
            self._last[worker] = clock, leases

    def in_doubt(self, worker: PeerId) -> tuple[int, Leases] | None:
        """The last contribution of one that is lost, by clock and what it was computed on: it may not be in in other fragments.
        Until `settle` says, it is not the end."""
        found = self._last.pop(worker, None)
        if found is not None:
            self._doubts[worker] = found
            self.pool.doubtful += sum(lease.length for lease in found[1])
        return found

    def needed(self, clock: int, fragment: FragmentId) -> int:
        """The contribution to another fragment with which what that of `clock` to fragment 0 holds is in there too."""
        if not self._strategy.in_turn:
            return clock
        begun, first = self._terms.begun
        turns = [self._strategy.step_of_turn(f, self._fragments, clock - first, begun) for f in (0, fragment)]
        return clock if turns[1] >= turns[0] else clock + 1

    def settle(self, worker: PeerId, *, everywhere: bool) -> None:
        """It is in everywhere, or is to be computed again."""
        _, leases = self._doubts.pop(worker)
        self.pool.doubtful -= sum(lease.length for lease in leases)
        if not everywhere:
            self._take_out(leases)
            self._back.update(slices_of(leases))

    def _take_out(self, leases: Leases) -> None:
        """It is in no longer, and whoever contributes it next is told of."""
        gone = set(slices_of(leases))
        if gone:
            self.pool.take_out(leases)
            left = [each for each in self._counted if gone.isdisjoint(slices_of(each[1]))]
            self._counted = deque(left, maxlen=REMEMBERED)
            self._unconfirmed = deque(each for each in self._unconfirmed if gone.isdisjoint(slices_of(each[2])))

    def contributors(self) -> list[PeerId]:
        """Whose last contribution may not be in everywhere."""
        return list(self._last)

    def leave_out(self, worker: PeerId, push: Push) -> None:
        """It does not count; what of it nobody else has brought in is to be computed again."""
        self.pool.give_back(worker, push.leases)
        self._changed.add(worker)

    def is_idle(self, workers: Collection[PeerId]) -> bool:
        """Whether these can do nothing: all that is left is held by others."""
        pool = self.pool
        return not (pool.finished or pool.free or any(pool.held_by(worker) for worker in workers))

    def withholds(self, worker: PeerId) -> bool:
        """Whether its answer waits until there is work for it, or all is in: elsewhere it takes part and contributes nothing."""
        return not self._rounds and self._strategy.staleness is None and self.is_idle((worker,))

    # ---------------------------------------------------------------------------------------------------------- leaving

    def keep(self, members: Collection[PeerId]) -> None:
        """What others than `members` hold goes back."""
        for worker in self.pool.holders:
            if worker not in members:
                self.give_back(worker)

    def give_back(self, worker: PeerId) -> None:
        """It computes none of what it holds."""
        self.pool.give_back(worker)
        self._credits.pop(worker, None)
        self._advances.pop(worker, None)
        self._brought.pop(worker, None)
        self._since.pop(worker, None)
        self._changed.add(worker)

    # ------------------------------------------------------------------------------------------ what the standby knows

    def count(self, version: int, parts: Sequence[Part]) -> None:
        """The contributions that a commit holds, for the ledger: they count once it is confirmed."""
        for part in parts:
            if part.weight > 0 and part.leases:
                self._count(version, part.worker, part.leases)

    def _count(self, version: int, worker: PeerId, leases: Leases) -> None:
        self._unconfirmed.append((version, worker, leases))

    def confirm(self, version: int) -> tuple[tuple[PeerId, Leases], ...]:
        """What counts by now, and has not been told."""
        told: list[tuple[PeerId, Leases]] = []
        while self._unconfirmed and self._unconfirmed[0][0] <= version:
            _, worker, leases = self._unconfirmed.popleft()
            told.append((worker, leases))
        self._counted.extend(told)
        return tuple(told)

    def remembered(self) -> tuple[tuple[PeerId, Leases], ...]:
        """What was counted last: whoever was to write it down may not have heard it."""
        return tuple(self._counted)

    def record(self) -> WorkRecord:
        """What has changed since the record before."""
        changed, self._changed = sorted(self._changed), set()
        back, self._back = leases_of(sorted(self._back)), set()
        return WorkRecord(self.pool.step, tuple((worker, self.pool.leases(worker)) for worker in changed), back)

    def repeat(self, parts: Sequence[Part], record: WorkRecord, version: int) -> None:
        """What the owner has recorded of its commit."""
        self._take_out(record.back)
        for part in parts:
            self.pool.bring(part.leases)
            self._note_last(part.worker, part.clock, part.leases)
            self._brought[part.worker] += sum(lease.length for lease in part.leases)
        self._shares = shares({part.worker: part.speed for part in parts}) if self._rounds else {}
        self.count(version, parts)
        self.confirm(version)
        for worker, leases in record.held:
            self.pool.hold(worker, leases)
        self.pool.step = record.step

    def state(self) -> WorkState:
        """For a successor, which has then what is not confirmed too."""
        fresh = tuple((worker, leases) for _, worker, leases in self._unconfirmed)
        last = tuple((worker, *found) for worker, found in {**self._last, **self._doubts}.items())
        counted, by_worker = (*self._counted, *fresh)[-REMEMBERED:], tuple(self._shares.items())
        return self.pool.state()._replace(counted=counted, last=last, shares=by_worker)

    def restore(self, state: WorkState) -> None:
        """Take over what another knows."""
        self.pool, self._shares = WorkPool(state), dict(state.shares)
        self._counted = deque(state.counted, maxlen=REMEMBERED)
        self._unconfirmed.clear()
        self._changed.clear()
        self._back.clear()
        self._doubts.clear()
        self._last = {worker: (clock, leases) for worker, clock, leases in state.last}
