"""Who has joined, who is alive, and the view that follows from it. Pure: time is handed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from roadtrain.errors import PeerError, RunFailed
from roadtrain.membership.detector import Detector
from roadtrain.membership.messages import Holds, Join, JoinRequest, NewView
from roadtrain.membership.record import WorkerRecord
from roadtrain.membership.redundancy import Redundancy
from roadtrain.membership.state import MEMBERS, State
from roadtrain.membership.view import (
    BrokenView,
    check_view,
    first_view,
    with_newcomer,
    without,
)
from roadtrain.view import Member, PeerId, View

HEARTBEAT_S = 1.0
"""Between two heartbeats of a worker. Waking costs the training thread more than sending one does: its caches."""
TERM = 1_000_000
"""So many views, and joinings, of one coordinator: those of the next have higher numbers."""
GONE_S = 0.4
"""One whose connection broke has so long, and four round trips, to come back."""


class NoPlace(RunFailed):
    """One worker cannot join. The run goes on without it."""


class Registry:
    """The workers of one run, `expected` at its start.

    `groups`: sizes of the groups of workers, in the order of their slots, that hold one replica each. The first of a group is
    its member of the view, and a group that lost a worker is lost. `lost`, `back`: who was, and who came again, in that
    order. `quarantined`: who may not come again, and why. `joins`: how many have joined so far, those that came back counted
    again; `handoffs`: fragments that came to another owner as theirs was lost, or left; `measurements`: how often an uplink
    was another than before. `returns`: lost groups may come back. `opened`: so may others come.
    """

    def __init__(
        self, expected: int, groups: Sequence[int] = (), *, returns: bool = False, opened: bool = False
    ) -> None:
        self.expected = expected
        self.workers: dict[PeerId, WorkerRecord] = {}
        self.lost: list[PeerId] = []
        self.back: list[PeerId] = []
        self.quarantined: dict[PeerId, str] = {}
        self.view: View | None = None
        self.terms: JoinRequest | None = None
        self.redundancy = Redundancy()
        self.joins = self.handoffs = self.measurements = 0
        self._incarnation = 0
        self._returns, self._opened = returns, opened
        sizes = list(groups or [1] * expected)
        self._groups = {f"w{slot}": f"w{first}" for slot, first in enumerate(_firsts(sizes))}

    # --------------------------------------------------------------------------------------------------- joining

    def known(self, said: Join) -> WorkerRecord | None:
        """The worker that this very process is; also one that was taken for lost and does not know it yet."""
        for worker in self.workers.values():
            same = worker.said.process == said.process
            if same and (worker.state is not State.GONE or worker.incarnation == said.incarnation):
                return worker
        worker = self.workers.get(f"w{said.slot}")
        if worker is not None and not worker.said.process and worker.incarnation == said.incarnation:
            worker.said = msgspec.structs.replace(said, told=None)  # it was not heard when the coordinator was replaced
            return worker
        return None

    def join(self, said: Join, now: float) -> WorkerRecord:
        """Take a worker in. Raises NoPlace when there is no place for it, and RunFailed when it does not fit the others."""
        name = f"w{said.slot}"
        if name in self.quarantined:
            raise NoPlace(f"{name} is quarantined: {self.quarantined[name]}", "look at its machine, and at its data")
        if said.incarnation and name not in self.workers:  # lost while there was another coordinator
            gone = WorkerRecord(name, said.incarnation, said, name, Detector(HEARTBEAT_S, now), State.GONE)
            self.workers[name] = gone
            return gone
        if said.incarnation:
            raise NoPlace(f"{name} was taken for lost, and another has come in its place")
        before = self.workers.get(name)
        if before is not None and before.state is not State.GONE:
            raise NoPlace(f"there is a {name} already", "give every worker a slot of its own")
        if self.view is not None:
            self._check_late(name, said, before)
        elif said.slot >= self.expected:
            raise NoPlace(f"there is no {name} among {self.expected} workers", "slots count from 0")
        else:
            self.terms = self._agreed(name, said.request)
        self.joins += 1
        self._incarnation += 1
        group = self._groups.setdefault(name, name)
        self.workers[name] = WorkerRecord(name, self._incarnation, said, group, Detector(HEARTBEAT_S, now))
        return self.workers[name]

    def _check_late(self, name: PeerId, said: Join, before: WorkerRecord | None) -> None:
        """Whether a worker may come to a run that goes on. Raises NoPlace."""
        allowed = self._returns if before is not None else self._opened
        if not allowed:
            raise NoPlace(f"{name} came when the run had begun", "it cannot be joined while it runs")
        if said.request.sizes != self.sizes:
            raise NoPlace(f"{name} comes back with another model", "use the same roadtrain and plan")

    def _agreed(self, name: PeerId, request: JoinRequest) -> JoinRequest:
        """What the first worker said of model and plan, which all must have. Whose weights count is another question."""
        terms = self.terms or request
        if request.plan != terms.plan:
            raise RunFailed(f"{name} has other settings than the rest", "attach with the same ones in every worker")
        if (request.structure, request.sizes) != (terms.structure, terms.sizes):
            raise RunFailed(
                f"{name} has another model than the rest", "use the same roadtrain, torch and plan everywhere"
            )
        return terms

    @property
    def complete(self) -> bool:
        """Whether everybody who is expected is here."""
        return len(self.workers) == self.expected

    def missing(self) -> list[PeerId]:
        """Who is expected and not here."""
        return [name for name in self._groups if name not in self.workers]

    def begin(self, now: float) -> View:
        """The first view."""
        ordered = sorted(self.workers.values(), key=lambda worker: worker.slot)
        members = [Member(w.name, w.incarnation) for w in ordered if w.group == w.name]
        self.view = first_view(members, self.sizes, self.sharded)
        self.redundancy.begin(self.view)
        for worker in ordered:
            worker.enter(State.ACTIVE)
            worker.detector.revive(now)
            worker.progress_s = now
        return self.view

    def recall(self, told: NewView, request: JoinRequest, now: float) -> None:
        """Know again what `told` says. Of its workers no more is known, but by `request` what all have in common, until they are
        heard. Raises PeerError when it cannot be."""
        try:
            check_view(told.view)
        except BrokenView as error:
            raise PeerError(str(error)) from error
        if set(told.view.peers) - told.addresses.keys():
            raise PeerError("a view without the addresses of its members")
        if told.parts.keys() != self._parts_of(told.view):
            raise PeerError("a view without all of its members' replica groups")
        if len(told.view.owners) != len((self.terms or request).sizes):
            raise PeerError("a view of another model")
        self.terms = self.terms or request
        self.view, self.lost, self.back = told.view, list(told.lost), list(told.back)
        self.redundancy.recall(told.awaited)
        parts = {name: part.incarnation for name, part in told.parts.items()}
        incarnations = {**told.view.incarnations, **parts}
        for name in self.workers.keys() - incarnations.keys():
            del self.workers[name]
        for name, incarnation in incarnations.items():
            known = self.workers.get(name)
            if known is None or known.incarnation != incarnation:
                self.workers[name] = self._recalled(name, incarnation, told, now)
        self.joins, self.handoffs = told.joined, told.handoffs

    def _parts_of(self, view: View) -> set[PeerId]:
        """Workers of the members' groups that are no members."""
        return {name for name, first in self._groups.items() if first in view.peers} - set(view.peers)

    def take_over(self) -> None:
        """Go on from what was recalled. The view, and whoever joins, have numbers that the lost coordinator cannot have given."""
        number = (self._now.number // TERM + 1) * TERM
        self.view, self._incarnation = replace(self._now, number=number), number

    def _recalled(self, name: PeerId, incarnation: int, told: NewView, now: float) -> WorkerRecord:
        address, digests = told.addresses.get(name, ""), told.first.get(name, {})
        request = msgspec.structs.replace(self._known_terms, address=address, digests=digests)
        heir = told.parts[name].heir if name in told.parts else told.heirs.get(name, "")
        said = Join("", _slot(name), 0, "", request, heir=heir)
        group = self._groups.setdefault(name, name)
        worker = WorkerRecord(name, incarnation, said, group, Detector(HEARTBEAT_S, now))
        worker.late = incarnation > self.expected
        worker.enter(State.SYNCING if worker.late else State.ACTIVE)
        return worker

    def admit(self, now: float) -> list[PeerId]:
        """A group of which all have joined while the run goes on, if there is one; it is in the view then."""
        joining = {worker.group for worker in self.workers.values() if worker.state is State.JOINING}
        for first in sorted(joining) if self.view is not None else ():
            group = [self.workers[name] for name, of in self._groups.items() if of == first and name in self.workers]
            if len(group) == self._size_of(first) and all(worker.state is State.JOINING for worker in group):
                for worker in group:
                    worker.enter(State.SYNCING)
                    worker.late = True
                    worker.detector.revive(now)
                    worker.progress_s = now
                self.back += [worker.name for worker in group if worker.name in self.lost]
                self.change(with_newcomer(self._now, Member(first, self.workers[first].incarnation), self.sizes))
                return [worker.name for worker in group]
        return []

    def _size_of(self, first: PeerId) -> int:
        return sum(of == first for of in self._groups.values())

    # ---------------------------------------------------------------------------------------------------- the view

    @property
    def _now(self) -> View:
        assert self.view is not None, "the run has begun"
        return self.view

    @property
    def _known_terms(self) -> JoinRequest:
        assert self.terms is not None, "somebody has joined"
        return self.terms

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of each fragment."""
        return () if self.terms is None else self.terms.sizes

    @property
    def sharded(self) -> bool:
        """Whether every worker owns fragments."""
        return self.terms is not None and self.terms.sharded

    @property
    def rounds(self) -> bool:
        """Whether contributions are added all at once, and not each as it comes."""
        return self.terms is not None and self.terms.rounds

    @property
    def model_bytes(self) -> int:
        """Bytes of all that travels."""
        return 0 if self.terms is None else self.terms.model_bytes

    def change(self, view: View) -> None:
        """`view` is the next one."""
        self.redundancy.change(self._now, view)
        self.view = view

    def alive(self) -> list[WorkerRecord]:
        """Workers of the view, in its order; a group's first stands for all of it."""
        peers = () if self.view is None else self.view.peers
        ranks = {peer: rank for rank, peer in enumerate(peers)}
        here = [worker for worker in self.workers.values() if worker.state in MEMBERS and worker.group in ranks]
        return sorted(here, key=lambda worker: (ranks[worker.group], worker.slot))

    def of_group(self, names: Sequence[PeerId]) -> list[PeerId]:
        """Those of the living that are lost with `names`."""
        groups = {self.workers[name].group for name in names if name in self.workers}
        return [worker.name for worker in self.alive() if worker.group in groups]

    def overdue(self, now: float) -> list[PeerId]:
        """Members that have been silent, or disconnected, for too long."""
        return [worker.name for worker in self.alive() if _is_dead(worker, now)]

    def give_up(self, name: PeerId) -> list[PeerId]:
        """The group of one that died before it was in the view; empty if it is none."""
        worker = self.workers.get(name)
        if worker is None or worker.state is not State.JOINING:
            return []
        group = [other for other in self.workers.values() if other.group == worker.group]
        for other in group:
            if other.state is State.JOINING:
                other.enter(State.GONE)
        return [other.name for other in group]

    def lose(self, names: Sequence[PeerId]) -> View:
        """The view without `names`, which are lost. Raises RunFailed when nobody, or not all of the state, is left."""
        self.lost += names
        return self.release(names)

    def release(self, names: Sequence[PeerId]) -> View:
        """The view without `names`, who may go. As `lose`."""
        for name in names:
            self.workers[name].enter(State.GONE)
        if set(self._now.peers) <= set(names):
            raise RunFailed("all workers are lost", "see the logs folder of the run; use --resume to go on")
        lost = {name for name in names if name in self._now.peers}
        self.change(without(self._now, lost, self.sizes, self.redundancy.former))
        return self._now

    def measured(self, worker: WorkerRecord, uplink: float | None) -> None:
        """A worker says how much it can send, in bytes per second."""
        if uplink != worker.uplink:
            worker.uplink = uplink
            self.measurements += 1

    def synced(self, name: PeerId, said: Holds) -> None:
        """A standby holds the state of a fragment, or does not any more."""
        if self.view is not None:
            self.redundancy.holds(self.view, name, said)


def _is_dead(worker: WorkerRecord, now: float) -> bool:
    if worker.gone_s is not None:
        return now - worker.gone_s > GONE_S + 4 * worker.rtt_s
    return worker.detector.dead(now)


def _slot(name: PeerId) -> int:
    if not name[1:].isdecimal():
        raise PeerError(f"{name} is no name of a worker")
    return int(name[1:])


def _firsts(sizes: Sequence[int]) -> list[int]:
    """The slot of the first worker of each one's group, slot by slot."""
    found: list[int] = []
    for size in sizes:
        found += [len(found)] * size
    return found
