"""A whole run in virtual time: workers, links, faults and a coordinator that only announces views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from torch import Tensor

from roadtrain.codec import pair
from roadtrain.errors import RunFailed
from roadtrain.message import Member, PeerId, View, ViewChanged
from roadtrain.simulate.carrier import Network
from roadtrain.simulate.clock import VirtualClock
from roadtrain.simulate.faults import NONE, Faults
from roadtrain.simulate.link import Fleet, Links
from roadtrain.simulate.worker import SimulatedWorker
from roadtrain.simulate.workload import Workload
from roadtrain.sync.fragment import sizes
from roadtrain.sync.machine import Effects
from roadtrain.sync.rule import RuleSpec
from roadtrain.sync.strategy import Strategy
from roadtrain.sync.view import first_view, without

DEADLINE_S = 100_000.0
"""Virtual seconds after which a run counts as stuck."""

Observer = Callable[[float, SimulatedWorker, Effects], None]


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
    """One run being simulated."""

    def __init__(
        self,
        strategy: Strategy,
        work: Workload,
        fleet: Fleet,
        *,
        steps: int,
        codec: str = "none",
        sharded: bool = True,
        faults: Faults = NONE,
        seed: int = 0,
        inner: RuleSpec | None = None,
    ) -> None:
        self._clock = VirtualClock()
        self._random = Random(seed)
        self._links = Links(fleet)
        self._network = Network(self._clock, self._links, faults, Random(seed + 1))
        self.observe: Observer | None = None
        self._faults = faults
        self._work = work
        self.workers = [self._worker(i, strategy, codec) for i in range(fleet.workers)]
        members = [Member(w.name, w.index + 1) for w in self.workers]
        self._view = first_view(members, sizes(work.fragments), sharded)
        self._first_owners = self._view.owners
        for worker in self.workers:
            self._announce(worker, 0.0)
            self._clock.start(worker.pump())
            rule = inner if inner is not None else RuleSpec(name="sgd", lr=0.1)
            self._clock.start(worker.train(steps, fleet, Random(f"{seed} {worker.name}"), rule))
        for time, index in faults.crashes:
            self._clock.at(time, lambda i=index: self._crash(i))
        for time, seconds, index in faults.sleeps:
            self._clock.at(time, lambda i=index, s=seconds: self._sleep(i, s))

    def _worker(self, index: int, strategy: Strategy, codec: str) -> SimulatedWorker:
        codecs = pair(codec)
        carrier = self._network.attach(f"w{index}")
        return SimulatedWorker(index, strategy, codecs, self._work, self._clock, carrier, self._seen)

    def _seen(self, worker: SimulatedWorker, effects: Effects) -> None:
        if self.observe is not None:
            self.observe(self._clock.now, worker, effects)

    # ------------------------------------------------------------------------------------------------- faults

    def _announce(self, worker: SimulatedWorker, after_s: float) -> None:
        view: View = self._view
        self._clock.at(
            self._clock.now + after_s, lambda: self._network.carriers[worker.name].deliver(ViewChanged(view))
        )

    def _lose(self, worker: SimulatedWorker) -> None:
        self._view = without(self._view, {worker.name}, sizes(self._work.fragments))
        for other in self.workers:
            if other.alive and other is not worker:
                self._announce(other, self._random.random() * self._faults.spread_s)

    def _crash(self, index: int) -> None:
        worker = self.workers[index]
        if worker.finished or self._alive() == 1:
            return
        worker.alive = False
        self._network.silent.add(worker.name)
        self._clock.at(self._clock.now + self._faults.detect_s, lambda: self._lose(worker))

    def _sleep(self, index: int, seconds: float) -> None:
        """The process stands still: what was sent stays sent, what arrives waits; long enough, and it is taken for lost."""
        worker = self.workers[index]
        if worker.finished or self._alive() == 1:
            return
        self._network.carriers[worker.name].freeze()
        if seconds > self._faults.detect_s:
            self._clock.at(self._clock.now + self._faults.detect_s, lambda: self._lose(worker))
        self._clock.at(self._clock.now + seconds, self._network.carriers[worker.name].thaw)

    def _alive(self) -> int:
        return sum(worker.alive and worker.name in self._view.peers for worker in self.workers)

    # ---------------------------------------------------------------------------------------------------- run

    def run(self) -> Trace:
        """Run to the end. Raises RunFailed when a fragment is lost with both its holders."""

        def done() -> bool:
            return all(w.finished or not w.alive or w.name not in self._view.peers for w in self.workers)

        finished = self._clock.run(done, DEADLINE_S)
        trace = Trace(finished, self._clock.now, first_owners=self._first_owners, sent_bytes=self._links.sent_bytes)
        trace.survivors = [w for w in self.workers if w.finished and w.name in self._view.peers]
        trace.faults = {"lost": self._network.lost, "doubled": self._network.doubled, "views": self._view.number - 1}
        for fragment, name in enumerate(self._view.owners):
            owner = next(w for w in self.workers if w.name == name).peer.owner(fragment)
            if owner is None:
                raise RunFailed(f"nobody owns fragment {fragment}")
            trace.values.append(owner.ledger.final())
            trace.clocks.append(owner.clocks)
        return trace


def simulate(
    strategy: Strategy,
    work: Workload,
    fleet: Fleet,
    *,
    steps: int,
    codec: str = "none",
    sharded: bool = True,
    faults: Faults = NONE,
    seed: int = 0,
    inner: RuleSpec | None = None,
) -> Trace:
    """Run `steps` local steps of every worker of `fleet` in virtual time; the same arguments give the same bits."""
    simulation = Simulation(
        strategy,
        work,
        fleet,
        steps=steps,
        codec=codec,
        sharded=sharded,
        faults=faults,
        seed=seed,
        inner=inner,
    )
    return simulation.run()
