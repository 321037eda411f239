"""A simulated worker: the peer of `sync/`, and a training loop that takes virtual time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from roadtrain.codec import Packet
from roadtrain.message import Contribute, FragmentId, PeerId, Push, Snapshot
from roadtrain.simulate.carrier import VirtualCarrier
from roadtrain.simulate.clock import Signal, VirtualClock
from roadtrain.simulate.machine import Fleet
from roadtrain.simulate.workload import Workload
from roadtrain.sync.effects import Effects, Install
from roadtrain.sync.load_balance import LoadBalance
from roadtrain.sync.peer import Peer
from roadtrain.sync.strategy import Aggregation, Payload, Strategy

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
        clock: VirtualClock,
        carrier: VirtualCarrier,
        resend_s: float = RESEND_S,
        *,
        newcomer: bool = False,
    ) -> None:
        """`newcomer`: it comes when the run goes on already."""
        self.newcomer = newcomer
        self.name: PeerId = f"w{index}"
        self.index = index
        self.alive = True
        self.finished = False
        self.step = self.computed = self.samples = 0
        self.pushed = [0] * len(work.fragments)
        self.loss = math.nan
        self.compute_s = self.sync_wait_s = 0.0
        self.first_s: float | None = None
        self.end_s: float | None = None
        self.staleness: Counter[int] = Counter()
        self.lead_max = 0
        self.learner = work.learner(index)
        self.pace = LoadBalance(strategy)
        self.peer = Peer(self.name, index + 1, strategy, work.ledger, resend_s)
        self.snapshots: dict[FragmentId, Snapshot] = {}
        self._strategy, self._work = strategy, work
        self._clock, self._carrier = clock, carrier
        self._installed: dict[FragmentId, Install] = {}
        self._clocks = [0] * len(work.fragments)
        self._bases = [0] * len(work.fragments)
        self._pending: set[FragmentId] = set()
        self._lacking: set[FragmentId] = set()
        self._answered: Signal | None = None

    def join(self, seen: Callable[[SimulatedWorker, Effects], None]) -> None:
        """Let the peer take part for as long as this worker lives; `seen` is told what that brings about."""

        def took(effects: Effects) -> bool:
            self._take(effects)
            if effects.installs or effects.events:
                seen(self, effects)
            return self.alive

        self._carrier.begin(self.peer, took)

    def _take(self, effects: Effects) -> None:
        if effects.installs:
            for install in effects.installs:
                self._installed[install.fragment] = install
                self._lacking.discard(install.fragment)
            if self._answered is not None and not self._lacking:
                self._answered.set()
        for snapshot in effects.collected:
            self.snapshots[snapshot.fragment] = snapshot

    # ------------------------------------------------------------------------------------------------ training

    async def train(
        self,
        steps: int,
        fleet: Fleet,
        stepped: Callable[[SimulatedWorker], None],
        ended: Callable[[SimulatedWorker], None],
    ) -> None:
        """Compute, contribute, wait for the state; `steps` times. `stepped` is told of every step, `ended` of the end."""
        if self.newcomer:
            await self._load(steps)
        while self.step < steps and self.alive:
            for _ in range(self.pace.begin(self.step)):
                await self._local_step(fleet)
            self.step += 1
            await self._agree(steps)
            if self.alive:
                stepped(self)
        await self._settle()
        self.end_s = self._clock.now
        self.finished = self.alive
        ended(self)

    async def _local_step(self, fleet: Fleet) -> None:
        begin = self._clock.now
        await self._clock.sleep(fleet.step_time(self.index, self.step))
        await self._carrier.awake()
        batch = self.pace.next_batch(self.step) + 1
        samples = self._work.samples(self.index, batch)
        self.loss = self.learner.compute(self.step + 1, batch)
        self.computed += 1
        self.samples += samples
        self.compute_s += self._clock.now - begin
        self.pace.measure(samples, self._clock.now - begin)
        self.first_s = self._clock.now if self.first_s is None else self.first_s

    async def _load(self, steps: int) -> None:
        """Take over the state that the run has by now; go on from the step that it stands for."""
        self._pending = set(range(len(self._clocks)))
        await self._take_over(self._pending)
        await self._level()
        if self.alive:
            self.step = min(steps, self._strategy.steps_of(min(self._clocks)))

    async def _agree(self, steps: int) -> None:
        """Close a period, if this step does. Asynchronous workers wait for the answer to a step only when the next one is
        computed, as real ones do."""
        if not self._strategy.ends_period(self.step) and self.step < steps:
            return
        await self._settle()
        self._push(range(len(self._clocks)), last=self._strategy.contributions(steps))
        if not self._runs_ahead:
            await self._settle()
        self.step = min(steps, max(self.step, self._reached()))

    @property
    def _runs_ahead(self) -> bool:
        unbounded = self._strategy.staleness is None and self._strategy.payload is Payload.GRADIENT
        return unbounded and set(self.peer.view.owners) != {self.name}

    def _reached(self) -> int:
        """The step that the state stands for; above this worker's own where rounds closed without it."""
        return self._strategy.steps_of(min(self._clocks)) if self._strategy.aggregation is Aggregation.ROUND else 0

    def _push(self, fragments: Sequence[FragmentId], last: int) -> None:
        """Contribute to those fragments whose `last` round is still to come."""
        if not self.alive or self.peer.evicted:
            self.alive = False
            return
        coming = [fragment for fragment in fragments if self._clocks[fragment] < last]
        for fragment in fragments:
            if self._clocks[fragment] >= last:  # its last round has closed, without this worker: it stays as agreed
                self.learner.put_back(fragment)
        self._pending.update(coming)
        for fragment, (weight, packet) in zip(coming, self.learner.contribute(coming), strict=True):
            self._say(fragment, weight, packet)

    def _say(self, fragment: FragmentId, weight: float, packet: Packet | None) -> None:
        clock = self.pushed[fragment] = self._clocks[fragment] + 1
        self._carrier.deliver(Contribute(Push(fragment, clock, self._bases[fragment], weight, packet, self.pace.speed)))

    async def _settle(self, fragments: Collection[FragmentId] | None = None, mix: float = 0.0) -> None:
        """Wait for the answer to what was pushed (to `fragments`; else to all), where it has not been taken over yet."""
        fragments = set(self._pending if fragments is None else fragments)
        if not fragments or not self.alive:
            return
        begin = self._clock.now
        for install in await self._take_over(fragments, mix):
            self.staleness[install.staleness] += 1
            self.lead_max = max(self.lead_max, install.lead)
        if not self._strategy.in_turn:
            await self._level()
        self.sync_wait_s += self._clock.now - begin

    async def _level(self) -> None:
        """Abstain from rounds until all fragments are at one clock, as real workers do (`ReplicaStep._level`)."""
        while self.alive and not self.peer.evicted:
            behind = {f for f, clock in enumerate(self._clocks) if clock < max(self._clocks)}
            if not behind:
                return
            self._pending.update(behind)
            for fragment in sorted(behind):
                self._say(fragment, 0.0, None)
            await self._take_over(behind)

    async def _take_over(self, fragments: Collection[FragmentId], mix: float = 0.0) -> list[Install]:
        """Wait for the state of these fragments, which are pending, and load it."""
        wanted = sorted(fragments)
        self._lacking = {fragment for fragment in wanted if fragment not in self._installed}
        if self._lacking:
            self._answered = Signal()
            await self._answered
            self._answered = None
        self._pending.difference_update(wanted)
        rounds = self._strategy.aggregation is Aggregation.ROUND
        installs = [self._installed.pop(fragment) for fragment in wanted]
        for install in installs:
            self._bases[install.fragment] = install.version
            self._clocks[install.fragment] = install.version if rounds else install.clock
            self.learner.install(install, mix)
            self.pace.accept(install.share)
        return installs
