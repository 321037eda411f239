"""Who has joined, who is alive, and the view that follows from it. Pure: time is handed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from roadtrain.errors import RunFailed
from roadtrain.fleet.letter import Introduction
from roadtrain.message import Member, PeerId, View
from roadtrain.session.control import JoinRequest
from roadtrain.sync.view import first_view, with_newcomer, without

SILENT_S = 6.0
"""A worker that has not been heard for so long counts as lost (its machine froze, or its link is cut)."""
GONE_S = 1.0
"""One whose connection broke has so long to come back."""


class Refused(RunFailed):
    """One worker cannot join. The run goes on without it."""


@dataclass(slots=True)
class Joined:
    """One worker, as it introduced itself."""

    name: PeerId
    incarnation: int
    introduction: Introduction
    heard_s: float
    connected: bool = True
    step: int = 0
    metrics: dict[str, Any] = field(default_factory=dict[str, Any])
    stats: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def slot(self) -> int:
        """Its slot of the samples."""
        return self.introduction.slot


class Registry:
    """The workers of one run, `expected` at its start. `waiting`: those that have come back while others of their crew have not.

    `crews`: sizes of the groups of workers, in the order of their slots, that hold one replica each. The first of a crew is its
    member of the view, and a crew that lost a worker is lost.
    """

    def __init__(self, expected: int, crews: Sequence[int] = ()) -> None:
        self.expected = expected
        self.workers: dict[PeerId, Joined] = {}
        self.lost: list[PeerId] = []
        self.view: View | None = None
        self.terms: JoinRequest | None = None
        self._incarnation = 0
        self.waiting: set[PeerId] = set()
        self._in_crews = bool(crews)
        self._first = {f"w{slot}": f"w{first}" for slot, first in enumerate(_firsts(crews or [1] * expected))}

    def known(self, said: Introduction) -> Joined | None:
        """The worker that is this very process, when it has joined before."""
        worker = self.workers.get(f"w{said.slot}")
        return worker if worker is not None and worker.introduction == said else None

    def join(self, said: Introduction, now: float) -> Joined:
        """Take a worker in. Raises Refused when there is no place for it, and RunFailed when it does not fit the others."""
        name = f"w{said.slot}"
        if self._returning(name):
            return self._come_back(said, now)
        if name in self.workers:
            raise Refused(f"there is a {name} already", "give every worker a slot of its own")
        if self.view is not None:
            raise Refused(f"{name} came when the run had begun", "joining a running fleet is not possible yet")
        if said.slot >= self.expected:
            raise Refused(f"there is no {name} among {self.expected} workers", "slots count from 0")
        self.terms = self._agreed(name, said.request)
        self._incarnation += 1
        self.workers[name] = Joined(name, self._incarnation, said, now)
        return self.workers[name]

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

    def first_digests(self) -> dict[PeerId, Mapping[str, str]]:
        """Hashes of the weights that each member built."""
        peers = () if self.view is None else self.view.peers
        return {peer: self.workers[peer].introduction.request.digests for peer in peers}

    @property
    def _sizes(self) -> tuple[int, ...]:
        return () if self.terms is None else self.terms.sizes

    @property
    def model_bytes(self) -> int:
        """Bytes of all that travels."""
        return 0 if self.terms is None else self.terms.model_bytes

    def _returning(self, name: PeerId) -> bool:
        """Whether a worker of this name may come back: its crew is lost, and it is not here yet."""
        alive = {worker.name for worker in self.alive()}
        return self._in_crews and name in self.lost and name not in self.waiting and name not in alive

    def _come_back(self, said: Introduction, now: float) -> Joined:
        """A worker of a lost crew was started again; the crew is readmitted when it is complete."""
        if said.request.sizes != self._sizes:
            raise Refused(f"w{said.slot} comes back with another model", "use the same roadtrain and plan")
        self._incarnation += 1
        self.workers[f"w{said.slot}"] = back = Joined(f"w{said.slot}", self._incarnation, said, now)
        self.waiting.add(back.name)
        return back

    def readmit(self, now: float) -> list[PeerId]:
        """The crew that is complete again, if there is one; it is in the view then."""
        for first in sorted({self._first[name] for name in self.waiting}):
            crew = [name for name, leader in self._first.items() if leader == first]
            if self.view is not None and self.waiting.issuperset(crew):
                self.waiting.difference_update(crew)
                for name in crew:
                    self.workers[name].heard_s = now
                member = Member(first, self.workers[first].incarnation)
                self.view = with_newcomer(self.view, member, self._sizes)
                return crew
        return []

    def give_up(self, name: PeerId) -> list[PeerId]:
        """The crew of one that died before it was readmitted; empty if it is none."""
        if name not in self.waiting:
            return []
        crew = [other for other, first in self._first.items() if first == self._first[name]]
        self.waiting.difference_update(crew)
        return crew

    @property
    def joins(self) -> int:
        """How many workers have joined so far, those that came back counted again."""
        return self._incarnation

    @property
    def complete(self) -> bool:
        """Whether everybody who is expected is here."""
        return len(self.workers) == self.expected

    def begin(self) -> View:
        """The first view."""
        ordered = sorted(self.workers.values(), key=lambda worker: worker.slot)
        members = [Member(w.name, w.incarnation) for w in ordered if self._first[w.name] == w.name]
        self.view = first_view(members, self._sizes, self.terms is not None and self.terms.sharded)
        return self.view

    def alive(self) -> list[Joined]:
        """Workers of the view, in its order; a crew's first stands for all of it."""
        peers = () if self.view is None else self.view.peers
        return [self.workers[name] for peer in peers for name, first in self._first.items() if first == peer]

    def with_crews(self, names: Sequence[PeerId]) -> list[PeerId]:
        """Those of the living that are lost with `names`."""
        lost = {self._first.get(name) for name in names}
        return [worker.name for worker in self.alive() if self._first[worker.name] in lost]

    def overdue(self, now: float) -> list[PeerId]:
        """Members that have been silent, or disconnected, for too long."""
        return [
            worker.name for worker in self.alive() if now - worker.heard_s > (SILENT_S if worker.connected else GONE_S)
        ]

    def lose(self, names: Sequence[PeerId]) -> View:
        """The view without `names`. Raises RunFailed when nobody, or not all of the state, is left."""
        assert self.view is not None
        self.lost += names
        if set(self.view.peers) <= set(names):
            raise RunFailed("all workers are lost", "see the logs folder of the run; use --resume to go on")
        self.view = without(self.view, set(names), self._sizes)
        return self.view

    def addresses(self) -> dict[PeerId, str]:
        """host:port of every member."""
        peers = () if self.view is None else self.view.peers
        return {peer: self.workers[peer].introduction.request.address for peer in peers}


def _firsts(sizes: Sequence[int]) -> list[int]:
    """The slot of the first worker of each one's crew, slot by slot."""
    found: list[int] = []
    for size in sizes:
        found += [len(found)] * size
    return found
