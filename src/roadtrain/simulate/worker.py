"""A simulated worker: drives the peer and the worker of `sync/` on the virtual clock, where a local step takes its time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import assert_never

from roadtrain.lease import Leases
from roadtrain.membership.messages import Holds
from roadtrain.message import Contribute, Depart, Leave, Left, Push, Snapshot
from roadtrain.simulate.carrier import VirtualCarrier
from roadtrain.simulate.clock import Signal, VirtualClock
from roadtrain.simulate.control import ControlLine
from roadtrain.simulate.machine import Fleet
from roadtrain.simulate.workload import Workload
from roadtrain.sync.dealer import WorkTerms, first_assignment
from roadtrain.sync.effects import Effects, Install, Synced
from roadtrain.sync.peer import Peer
from roadtrain.sync.strategy import Strategy
from roadtrain.sync.work_queue import WorkQueue
from roadtrain.sync.worker import Await, Contribution, Finish, Give, Order, StartOver, Worker
from roadtrain.view import FragmentId, PeerId, View

RESEND_S = 1.0
"""First repeat of an unanswered question, in virtual seconds."""


class SimulatedWorker:
    """Worker number `index`.

    Totals in virtual seconds: `compute_s`; `sync_wait_s`; `first_s`, `end_s`: when its first step was computed, and when it
    had finished.
    """

    def __init__(
        self,
        index: int,
        strategy: Strategy,
        work: Workload,
        steps: int,
        clock: VirtualClock,
        carrier: VirtualCarrier,
        line: ControlLine,
        resend_s: float = RESEND_S,
        *,
        terms: WorkTerms,
        incarnation: int,
        newcomer: bool = False,
    ) -> None:
        """`newcomer`: it comes when the run goes on already. `line`: to the coordinator. `terms`: the run's work."""
        self.newcomer = newcomer
        self.name: PeerId = f"w{index}"
        self.index = index
        self.alive = True
        self.finished = False
        self.computed = self.samples = 0
        self.pushed = [0] * len(work.fragments)
        self.loss = math.nan
        self.compute_s = self.sync_wait_s = 0.0
        self.first_s: float | None = None
        self.end_s: float | None = None
        self.staleness: Counter[int] = Counter()
        self.lead_max = 0
        self.learner = work.learner()
        self.rules = Worker(strategy, len(work.fragments), steps, work=WorkQueue())
        self.peer = Peer(self.name, incarnation, strategy, work.ledger, resend_s, work=terms)
        self._terms, self._strategy = terms, strategy
        self.contributed: dict[int, Leases] = {}
        """By clock of fragment 0, what the contribution was computed on."""
        self._line = line
        self.snapshots: dict[FragmentId, Snapshot] = {}
        self._work, self._clock, self._carrier = work, clock, carrier
        self._answers: dict[FragmentId, Install | Left] = {}
        self._lacking: set[FragmentId] = set()
        self._answered: Signal | None = None

    @property
    def step(self) -> int:
        """Local steps that the model stands for."""
        return self.rules.step

    def begin(self, view: View) -> None:
        """The run begins with `view`, and this worker is in it."""
        self.rules.assign(first_assignment(self._terms, self._strategy, view, self.name))

    def join(self, seen: Callable[[SimulatedWorker, Effects], None]) -> None:
        """Let the peer take part for as long as this worker lives; `seen` is told what that brings about."""

        def took(effects: Effects) -> bool:
            self._take(effects)
            if effects.installs or effects.events:
                seen(self, effects)
            return self.alive

        self._carrier.begin(self.peer, took)

    def _take(self, effects: Effects) -> None:
        if effects.installs or effects.left:
            for answer in (*effects.installs, *effects.left):
                self._answers[answer.fragment] = answer
                self._lacking.discard(answer.fragment)
            if self._answered is not None and not self._lacking:
                self._answered.set()
        for event in effects.events:
            if isinstance(event, Synced):
                self._line.client.say(Holds(self.peer.view.number, event.fragment, event.whole))
                self._line.flush()
        for snapshot in effects.collected:
            self.snapshots[snapshot.fragment] = snapshot

    # ------------------------------------------------------------------------------------------------ training

    async def train(
        self,
        fleet: Fleet,
        stepped: Callable[[SimulatedWorker], None],
        ended: Callable[[SimulatedWorker], None],
    ) -> None:
        """Compute, contribute, wait for the state, until all samples are in. `stepped` is told of every step, `ended` of the
        end."""
        if self.newcomer:
            await self._carry_out(self.rules.enter())
        control = self._line.client
        while not self.rules.complete and self.alive:
            control.begun, control.done = self.step + 1, self.step
            if self.rules.idle:
                await self._carry_out(self.rules.wait())
                self.learner.agreed(self.step)
                continue
            await self._carry_out(self.rules.begin(alone=set(self.peer.view.owners) == {self.name}))
            for _ in range(self.rules.local_steps()):
                await self._local_step(fleet)
            await self._carry_out(self.rules.stepped())
            if self.alive:
                self.learner.agreed(self.step)
                stepped(self)
        await self._carry_out(self.rules.finish())
        self.end_s = self._clock.now
        self.finished = self.alive
        ended(self)

    async def _local_step(self, fleet: Fleet) -> None:
        begin = self._clock.now
        await self._clock.sleep(fleet.step_time(self.index, self.step))
        await self._carrier.awake()
        batch, slot = divmod(self.rules.next_slice(), self._terms.workers)
        samples = self._work.samples(slot, batch + 1)
        self.loss = self.learner.compute(self.rules.schedule, slot, batch + 1)
        self.rules.computed(samples)
        self.computed += 1
        self.samples += samples
        self.compute_s += self._clock.now - begin
        self.rules.speedometer.measure(samples, self._clock.now - begin)
        self.first_s = self._clock.now if self.first_s is None else self.first_s

    async def _carry_out(self, orders: Iterable[Order]) -> None:
        for order in orders:
            if not self.alive:
                return
            match order:
                case Give(contributions):
                    self._give(contributions)
                case Await(fragments, mix):
                    await self._load(fragments, mix)
                case StartOver(fragments):
                    self.learner.start_over(fragments)
                case Finish(leaves):
                    await self._leave(leaves)
                case _:
                    assert_never(order)

    def _give(self, contributions: Sequence[Contribution]) -> None:
        if self.peer.evicted:
            self.alive = False
            return
        counted = [each for each in contributions if each.samples]
        packets, finite = self.learner.contribute([each.fragment for each in counted])
        if not finite:
            self.rules.not_finite()
        by_fragment = dict(zip([each.fragment for each in counted], packets, strict=True))
        for fragment, clock, base, samples, speed, leases, steps, lr in contributions:
            self.pushed[fragment] = clock
            if fragment == 0:
                self.contributed[clock] = leases
            push = Push(fragment, clock, base, samples, by_fragment.get(fragment), speed, lr, leases, steps)
            self._carrier.deliver(Contribute(push))

    async def _load(self, fragments: Collection[FragmentId], mix: float) -> None:
        begin = self._clock.now
        await self._await(fragments)
        for fragment in fragments:
            install = self._answers.pop(fragment)
            assert isinstance(install, Install)
            self.learner.install(install, mix)
            self.rules.loaded(install)
            self.staleness[install.staleness] += 1
            self.lead_max = max(self.lead_max, install.lead)
        self.sync_wait_s += self._clock.now - begin

    async def _leave(self, leaves: Sequence[tuple[FragmentId, int, int]]) -> None:
        begin = self._clock.now
        for fragment, clock, version in leaves:
            self._carrier.deliver(Depart(Leave(fragment, clock, version, 0)))
        await self._await([fragment for fragment, _, _ in leaves])
        for fragment, _, _ in leaves:
            left = self._answers.pop(fragment)
            assert isinstance(left, Left)
            if left.packet is not None:
                self.learner.take_over(left)
        self.sync_wait_s += self._clock.now - begin

    async def _await(self, fragments: Collection[FragmentId]) -> None:
        """Until the answer to each of these is here."""
        self._lacking = {fragment for fragment in fragments if fragment not in self._answers}
        if self._lacking:
            self._answered = Signal()
            self._line.client.waits = True
            await self._answered
            self._line.client.waits = False
            self._answered = None
