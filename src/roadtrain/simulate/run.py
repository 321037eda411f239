"""A whole run in virtual time: workers, links, faults, and the coordinator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from torch import Tensor

from roadtrain.errors import RunFailed
from roadtrain.lease import WorkState
from roadtrain.membership.effects import Effects as Announced
from roadtrain.membership.messages import Done, JoinRequest, Result
from roadtrain.membership.phase import Phase
from roadtrain.message import Collect, ViewChanged
from roadtrain.simulate.carrier import Network
from roadtrain.simulate.clock import VirtualClock
from roadtrain.simulate.control import ControlPlane, join_request
from roadtrain.simulate.faults import NONE, Faults
from roadtrain.simulate.injection import Injection
from roadtrain.simulate.link import Links
from roadtrain.simulate.machine import Fleet
from roadtrain.simulate.process import Process
from roadtrain.simulate.worker import RESEND_S, SimulatedWorker
from roadtrain.simulate.workload import Workload
from roadtrain.sync.dealer import WorkTerms
from roadtrain.sync.effects import Effects, Orphaned
from roadtrain.sync.fragment import sizes
from roadtrain.sync.strategy import Aggregation, Strategy
from roadtrain.view import FragmentId, PeerId, View

DEADLINE_S = 100_000.0
"""Virtual seconds after which a run counts as stuck."""

LOOK_S = 0.01
"""How often whoever saves looks whether all is there."""

Observer = Callable[[float, SimulatedWorker, Effects], None]


@dataclass(frozen=True, slots=True)
class Loss:
    """A worker was lost, or left; `moved` fragments went to their standbys."""

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
    is called now and then; all three only watch. `moved`: fragments that came to another owner without a loss. `workers`:
    all that ever took part; one that came back is there twice."""

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
        self.moved = 0
        self.workers: list[SimulatedWorker] = []
        self.observe: Observer | None = None
        self.stepped: Callable[[SimulatedWorker], None] | None = None
        self.look: Callable[[], None] = lambda: None
        self._random = Random(seed)
        self._network = Network(self.clock, self.links, faults, Random(seed + 1))
        self._faults, self._fleet = faults, fleet
        self._work, self._strategy, self._steps, self._resend_s = work, strategy, steps, resend_s
        self._request = self._request_of(sharded)
        count = fleet.topology.workers
        self._terms = WorkTerms(WorkState(total=steps * count), count)
        self.plane = ControlPlane(self.clock, count, self._request, faults, Random(seed + 2), self._announced)
        self._first: View | None = None
        self.processes = [Process(self, index) for index in range(count)]
        for process in self.processes:
            self.workers.append(process.first_worker())
            self.clock.at(0.0, process.begin)
        self._injection = Injection(self, faults, self._network)
        self._injection.schedule()

    def _request_of(self, sharded: bool) -> JoinRequest:
        rounds = self._strategy.aggregation is Aggregation.ROUND
        return join_request(tuple(sizes(self._work.fragments)), sharded=sharded, rounds=rounds)

    # ---------------------------------------------------------------------------------------- for its processes

    def worker(self, process: Process, incarnation: int, *, newcomer: bool) -> SimulatedWorker:
        """The worker that `process` is from now on."""
        return SimulatedWorker(
            process.index,
            self._strategy,
            self._work,
            self._steps,
            self.clock,
            self._network.attach(process.name),
            process.line,
            self._resend_s,
            terms=self._terms,
            incarnation=incarnation,
            newcomer=newcomer,
        )

    @property
    def request(self) -> JoinRequest:
        """What every process says of its model."""
        return self._request

    def add_process(self) -> Process:
        """One more process, which has not begun yet."""
        index = len(self.processes)
        self.links.add(index)
        self.processes.append(Process(self, index))
        return self.processes[-1]

    def start(self, worker: SimulatedWorker, view: View) -> None:
        """A worker is in the view: let it train."""
        if not worker.newcomer:
            worker.begin(view)
        if worker not in self.workers:
            self.workers.append(worker)
        worker.join(self._seen)
        self.clock.start(worker.train(self._fleet, self._stepped, self._ended))

    def deliver(self, worker: SimulatedWorker, view: View) -> None:
        """A worker's client has heard of a view."""
        self._network.carriers[worker.name].deliver(ViewChanged(view))

    # ---------------------------------------------------------------------------------------------- what it sees

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
        process = self.processes[worker.index]
        if worker.finished:
            process.line.client.say(Done(worker.step, True, {}))
            process.line.flush()
        self.clock.closing = self._training_is_over()

    def _announced(self, out: Announced) -> None:
        """The coordinator has decided something."""
        for event in out.events:
            name = str(event.get("worker", ""))
            if event["event"] in ("lost", "left"):
                self._injection.falling.discard(name)
                self.losses.append(Loss(self.clock.now, name, (), ()))
            elif event["event"] == "handoff" and self.losses:
                last = self.losses[-1]
                self.losses[-1] = Loss(last.time_s, last.worker, tuple(event["fragments"]), tuple(event["to"]))
            elif event["event"] == "moved":
                self.moved += len(event["fragments"])
            elif event["event"] in ("arrived", "returned"):
                self.joins.append((self.clock.now, name))
        self.clock.closing = self._training_is_over()

    @property
    def view(self) -> View:
        """The coordinator's present view."""
        view = self.plane.coordinator.registry.view
        assert view is not None, "the run has begun"
        return view

    # ---------------------------------------------------------------------------------------------------- run

    def run(self, deadline_s: float = DEADLINE_S) -> Trace:
        """Run to the end of the training. Raises RunFailed when a fragment is lost with both its holders."""
        finished = self.clock.run(self._done, deadline_s, self.look)
        trace = Trace(finished, self.clock.now, first_owners=self._owners_at_first())
        trace.sent_bytes = {name: s.sent_bytes for name, s in self.links.stations.items() if s.sent_bytes}
        members = [self.processes[int(name[1:])].worker for name in self.view.peers]
        trace.survivors = [worker for worker in members if worker is not None and worker.finished]
        trace.faults = {"lost": self._network.lost, "doubled": self._network.doubled, "views": self.view.number - 1}
        trace.faults |= {"broken": self.plane.breaks, "returned": len(self.joins), "replaced": self.plane.replaced}
        trace.faults["moved"] = self.moved
        for fragment, name in enumerate(self.view.owners):
            worker = self.processes[int(name[1:])].worker
            owner = None if worker is None else worker.peer.owner(fragment)
            if owner is None:
                raise RunFailed(f"nobody owns fragment {fragment}")
            trace.values.append(owner.ledger.final())
            trace.clocks.append(owner.clocks)
        return trace

    def began(self, view: View) -> None:
        """The first view was announced."""
        self._first = self._first or view

    @property
    def has_begun(self) -> bool:
        """Whether there is a view."""
        return self._first is not None

    def _owners_at_first(self) -> tuple[PeerId, ...]:
        return () if self._first is None else self._first.owners

    def _training_is_over(self) -> bool:
        return self.plane.coordinator.phase not in (Phase.GATHERING, Phase.RECALLING, Phase.TRAINING)

    def _done(self) -> bool:
        """Every member has finished and knows the view: who took over from a lost one holds what it left."""
        if not self._training_is_over():
            return False
        workers = [self.processes[int(name[1:])].worker for name in self.view.peers]
        return all(w is not None and w.finished and w.peer.view.number == self.view.number for w in workers)

    def conclude(self, deadline_s: float = DEADLINE_S) -> bool:
        """Let the run come to its very end: one worker fetches every fragment and saves, all say goodbye. Whether it did."""
        return self.clock.run(lambda: self.plane.coordinator.phase is Phase.OVER, deadline_s, self.look)

    def finish(self, worker: SimulatedWorker) -> None:
        """A worker was told to save for all."""
        self._network.carriers[worker.name].deliver(Collect())

        def look() -> None:
            process = self.processes[worker.index]
            if process.line.dead or process.worker is not worker:
                return
            if len(worker.snapshots) == len(self._work.fragments):
                process.line.client.say(Result({}))
                process.line.flush()
            else:
                self.clock.at(self.clock.now + LOOK_S, look)

        look()


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
