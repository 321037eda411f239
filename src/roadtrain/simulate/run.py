"""A whole run in virtual time: workers, links, faults and a coordinator that only announces views."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from torch import Tensor

from roadtrain.errors import RunFailed
from roadtrain.membership.view import first_view, with_newcomer, without
from roadtrain.message import Collect, ViewChanged
from roadtrain.simulate.carrier import Network
from roadtrain.simulate.clock import VirtualClock
from roadtrain.simulate.faults import NONE, Faults
from roadtrain.simulate.link import Links
from roadtrain.simulate.machine import Fleet
from roadtrain.simulate.worker import RESEND_S, SimulatedWorker
from roadtrain.simulate.workload import Workload
from roadtrain.sync.effects import Effects, Orphaned
from roadtrain.sync.fragment import sizes
from roadtrain.sync.strategy import Strategy
from roadtrain.view import FragmentId, Member, PeerId, View

DEADLINE_S = 100_000.0
"""Virtual seconds after which a run counts as stuck."""

HELD_BACK_S = 0.5
"""How much later a loss is tried again that nothing promises to survive now."""

Observer = Callable[[float, SimulatedWorker, Effects], None]


@dataclass(frozen=True, slots=True)
class Loss:
    """A worker was lost; `moved` fragments went to their standbys."""

    time_s: float
    worker: PeerId
    moved: tuple[FragmentId, ...]
    heirs: tuple[PeerId, ...]


@dataclass(slots=True)
class Trace:
    """What a simulated run left: final values (of the owners), how long it took, what crossed the links."""

    finished: bool
    time_s: float
    values: list[Tensor] = field(default_factory=list["Tensor"])
    clocks: list[dict[PeerId, int]] = field(default_factory=list[dict[PeerId, int]])
    first_owners: tuple[PeerId, ...] = ()
    survivors: list[SimulatedWorker] = field(default_factory=list[SimulatedWorker])
    sent_bytes: dict[PeerId, int] = field(default_factory=dict[PeerId, int])
    faults: dict[str, int] = field(default_factory=dict[str, int])


class Simulation:
    """One run being simulated. `observe` sees what every peer brings about, `stepped` every step of a worker, `look`
    is called now and then; all three only watch."""

    def __init__(
        self,
        strategy: Strategy,
        work: Workload,
        fleet: Fleet,
        *,
        steps: int,
        sharded: bool = True,
        faults: Faults = NONE,
        seed: int = 0,
        resend_s: float = RESEND_S,
    ) -> None:
        self.clock = VirtualClock()
        self.links = Links(fleet.topology)
        self.losses: list[Loss] = []
        self.joins: list[tuple[float, PeerId]] = []
        self.observe: Observer | None = None
        self.stepped: Callable[[SimulatedWorker], None] | None = None
        self.look: Callable[[], None] = lambda: None
        self._random = Random(seed)
        self._network = Network(self.clock, self.links, faults, Random(seed + 1))
        self._faults = faults
        self._work = work
        self._strategy, self._steps, self._resend_s = strategy, steps, resend_s
        self.workers = [
            SimulatedWorker(i, strategy, work, steps, self.clock, self._network.attach(f"w{i}"), resend_s)
            for i in range(fleet.topology.workers)
        ]
        self._by_name = {worker.name: worker for worker in self.workers}
        self._training = set(self._by_name)
        self._falling: set[PeerId] = set()
        members = [Member(w.name, w.index + 1) for w in self.workers]
        self.view = first_view(members, sizes(work.fragments), sharded)
        self._first_owners = self.view.owners
        self._begin(fleet)

    def _begin(self, fleet: Fleet) -> None:
        for worker in self.workers:
            self._announce(worker, 0.0)
            self.clock.at(self.clock.now, worker.join, self._seen)
            self.clock.start(worker.train(fleet, self._stepped, self._ended))
        for time, index in self._faults.crashes:
            self.clock.at(time, self._crash, index)
        for time, seconds, index in self._faults.sleeps:
            self.clock.at(time, self._sleep, index, seconds)
        for time, seconds, index in self._faults.isolations:
            self.clock.at(time, self._isolate, index, seconds)
        for time, seconds, side in self._faults.partitions:
            self.clock.at(time, self._part, frozenset(f"w{index}" for index in side), seconds)
        for time in self._faults.joins:
            self.clock.at(time, self._join, fleet)

    def _seen(self, worker: SimulatedWorker, effects: Effects) -> None:
        if self.observe is not None:
            self.observe(self.clock.now, worker, effects)
        for event in effects.events:
            if isinstance(event, Orphaned):
                raise RunFailed(f"fragment {event.fragment} lost its owner and its standby at once")

    def _stepped(self, worker: SimulatedWorker) -> None:
        if self.stepped is not None:
            self.stepped(worker)

    def _ended(self, worker: SimulatedWorker) -> None:
        if worker.finished:
            self._trains_no_more(worker)

    def _trains_no_more(self, worker: SimulatedWorker) -> None:
        self._training.discard(worker.name)
        self.clock.closing = not self._training

    # ------------------------------------------------------------------------------------------------- faults

    def _announce(self, worker: SimulatedWorker, after_s: float) -> None:
        view: View = self.view
        self.clock.at(self.clock.now + after_s, self._network.carriers[worker.name].deliver, ViewChanged(view))

    def _lose(self, worker: SimulatedWorker) -> None:
        before = self.view
        self.view = without(before, {worker.name}, sizes(self._work.fragments))
        self._trains_no_more(worker)
        self._falling.discard(worker.name)
        moved = [f for f, (old, new) in enumerate(zip(before.owners, self.view.owners, strict=True)) if old != new]
        heirs = sorted({self.view.owners[fragment] for fragment in moved})
        self.losses.append(Loss(self.clock.now, worker.name, tuple(moved), tuple(heirs)))
        for other in self.workers:
            if other.alive and other is not worker:
                self._announce(other, self._random.random() * self._faults.spread_s)

    def _join(self, fleet: Fleet) -> None:
        """One more worker comes, unless there is nothing left to do."""
        if not self._training:
            return
        index = len(self.workers)
        self.links.add(index)
        carrier = self._network.attach(f"w{index}")
        worker = SimulatedWorker(
            index, self._strategy, self._work, self._steps, self.clock, carrier, self._resend_s, newcomer=True
        )
        self.joins.append((self.clock.now, worker.name))
        self.workers.append(worker)
        self._by_name[worker.name] = worker
        self._training.add(worker.name)
        self.view = with_newcomer(self.view, Member(worker.name, index + 1), sizes(self._work.fragments))
        for other in self.workers:
            if other.alive:
                self._announce(other, self._random.random() * self._faults.spread_s)
        self.clock.at(self.clock.now, worker.join, self._seen)
        self.clock.start(worker.train(fleet, self._stepped, self._ended))

    def _crash(self, index: int) -> None:
        """The process is gone."""
        worker = self._strike(index, self._crash)
        if worker is not None:
            worker.alive = False
            self._network.silent.add(worker.name)

    def _sleep(self, index: int, seconds: float) -> None:
        """The process stands still: what was sent stays sent, what arrives waits; long enough, and it is taken for lost."""
        worker = self._strike(index, self._sleep, seconds)
        if worker is not None:
            self._network.carriers[worker.name].freeze()
            self.clock.at(self.clock.now + seconds, self._network.carriers[worker.name].thaw)

    def _isolate(self, index: int, seconds: float) -> None:
        """The worker goes on, but reaches nobody and hears from nobody, and is taken for lost."""
        worker = self._strike(index, self._isolate, seconds)
        if worker is not None:
            self._part(frozenset({worker.name}), seconds)

    def _strike(self, index: int, again: Callable[..., None], seconds: float = math.inf) -> SimulatedWorker | None:
        """The worker that a fault of `seconds` meets now, to be lost when that is noticed. None where it would be the last
        one; and where losses are `held_back`, while a fragment has one holder: then it comes `again` later."""
        worker = self.workers[index]
        if worker.finished or self._alive() == 1:
            return None
        if self._faults.held_back and not self._held_twice():
            arguments = (index,) if seconds == math.inf else (index, seconds)
            self.clock.at(self.clock.now + HELD_BACK_S, again, *arguments)
            return None
        if seconds > self._faults.detect_s:
            self._falling.add(worker.name)
            self.clock.at(self.clock.now + self._faults.detect_s, self._lose, worker)
        return worker

    def _held_twice(self) -> bool:
        """Whether every fragment's standby could take over, and nobody is about to be lost."""
        standbys = enumerate(self.view.standbys)
        return not self._falling and all(
            name is not None and self._by_name[name].peer.stands_by(fragment) for fragment, name in standbys
        )

    def _part(self, side: frozenset[PeerId], seconds: float) -> None:
        """What goes between `side` and the others is lost for a while."""
        self._network.sides.append(side)
        self.clock.at(self.clock.now + seconds, self._network.sides.remove, side)

    def _alive(self) -> int:
        return sum(worker.alive and worker.name in self.view.peers for worker in self.workers)

    # ---------------------------------------------------------------------------------------------------- run

    def run(self, deadline_s: float = DEADLINE_S) -> Trace:
        """Run to the end. Raises RunFailed when a fragment is lost with both its holders."""
        finished = self.clock.run(self._done, deadline_s, self.look)
        trace = Trace(finished, self.clock.now, first_owners=self._first_owners)
        trace.sent_bytes = {name: s.sent_bytes for name, s in self.links.stations.items() if s.sent_bytes}
        trace.survivors = [w for w in self.workers if w.finished and w.name in self.view.peers]
        trace.faults = {"lost": self._network.lost, "doubled": self._network.doubled, "views": self.view.number - 1}
        for fragment, name in enumerate(self.view.owners):
            owner = self._by_name[name].peer.owner(fragment)
            if owner is None:
                raise RunFailed(f"nobody owns fragment {fragment}")
            trace.values.append(owner.ledger.final())
            trace.clocks.append(owner.clocks)
        return trace

    def _done(self) -> bool:
        """Every member has finished and knows the view: who took over from a lost one holds what it left."""
        if self._training:
            return False
        return all(self._by_name[name].peer.view.number == self.view.number for name in self.view.peers)

    def collect(self, deadline_s: float = DEADLINE_S) -> None:
        """Let the first member fetch every fragment, as at the end of a real run. Raises RunFailed when it cannot."""
        saver = self._by_name[self.view.peers[0]]
        self._network.carriers[saver.name].deliver(Collect())

        def complete() -> bool:
            return len(saver.snapshots) == len(self._work.fragments)

        if not self.clock.run(complete, deadline_s, self.look):
            raise RunFailed("the owners did not give their state")


def simulate(
    strategy: Strategy,
    work: Workload,
    fleet: Fleet,
    *,
    steps: int,
    sharded: bool = True,
    faults: Faults = NONE,
    seed: int = 0,
) -> Trace:
    """Run `steps` local steps of every worker of `fleet` in virtual time; the same arguments give the same bits."""
    return Simulation(strategy, work, fleet, steps=steps, sharded=sharded, faults=faults, seed=seed).run()
