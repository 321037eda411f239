"""Which feeders serve a run, and what they and the coordinator say to each other, sans-IO.

A feeder is no member: nobody waits for it, and it owns nothing. It says who it is on every connection, and is told the whole of
what it needs to know whenever that changes, so nothing is missed when either end is lost and comes back.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import msgspec

from roadtrain.errors import PeerError
from roadtrain.membership.effects import Effects
from roadtrain.membership.messages import BadSample, Count, Feeders, RunSpec
from roadtrain.membership.record import WorkerRecord
from roadtrain.membership.registry import Registry
from roadtrain.membership.state import State
from roadtrain.view import PeerId, Place

PROTOCOL = 1
"""Raised by every change that another version would not understand."""
TOLD = 3
"""How many samples a person is told of that are left out; the events have all."""
GONE_S = 1.0
"""A feeder whose connection broke has so long to come back: workers ask others meanwhile, if they have to."""


class FeederHello(msgspec.Struct, frozen=True):
    """First on every connection of a feeder: which process it is, and where workers can dial it (host:port; "" for nowhere).
    `feeder`, `incarnation`: as what workers know it already, by what another coordinator has told; "" and 0 for a new one."""

    protocol: int
    version: str
    process: str
    pid: Count
    host: str
    address: str
    feeder: PeerId = ""
    incarnation: Count = 0


class FeederTold(msgspec.Struct, frozen=True):
    """To a feeder: who it is, the run, and its workers. `heirs`: where (host:port) the coordinator may be when it is lost.
    `over`: the run has ended."""

    feeder: PeerId
    incarnation: int
    run: RunSpec
    workers: dict[PeerId, Place]
    heirs: tuple[str, ...]
    over: bool = False


def consumer_of(worker: PeerId) -> PeerId:
    """What feeders know a worker as. Its process has connections of another kind under its own name."""
    return f"feed-{worker}"


_hello = msgspec.msgpack.Decoder(FeederHello)
_told = msgspec.msgpack.Decoder(FeederTold)
encode = msgspec.msgpack.encode


def hello_of(raw: bytes) -> FeederHello:
    """What a feeder has sent. Raises PeerError for anything else."""
    try:
        return _hello.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError(f"not a feeder's hello: {error}") from None


def told_of(raw: bytes) -> FeederTold:
    """What the coordinator has sent. Raises PeerError for anything else."""
    try:
        return _told.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError(f"not what a feeder is told: {error}") from None


@dataclass(slots=True)
class FeederRecord:
    """One feeder. `gone_s`: when its connection broke; None while it stands."""

    name: PeerId
    incarnation: int
    said: FeederHello
    gone_s: float | None = None


class Feeding:
    """The feeders of a run. `number` grows whenever they change; `names`: all that there were.
    `bad_samples`: numbers of samples that could not be made."""

    def __init__(self) -> None:
        self.number = 0
        self.names: list[PeerId] = []
        self.bad_samples: set[int] = set()
        self._differing: set[PeerId] = set()
        self._by_process: dict[str, FeederRecord] = {}
        self._count = 0

    def come(self, said: FeederHello, out: Effects) -> FeederRecord:
        """A feeder has connected: it is new, or is back."""
        known = self._by_process.get(said.process)
        if known is None:
            known = self._new(said)
            self._by_process[said.process] = known
            self.names.append(known.name)
            out.event("feeder_joined", feeder=known.name, pid=said.pid, host=said.host)
            self.number += 1
        elif known.said.address != said.address:
            known.said = said
            self.number += 1
        known.gone_s = None
        return known

    def _new(self, said: FeederHello) -> FeederRecord:
        """One that this coordinator does not know keeps the name that it has, unless another has it here."""
        taken = {record.name for record in self._by_process.values()}
        if said.feeder and said.feeder not in taken:
            self._count = max(self._count, said.incarnation)
            return FeederRecord(said.feeder, said.incarnation, said)
        self._count += 1
        free = next(name for number in count() if (name := f"f{number}") not in (*taken, *self.names))
        return FeederRecord(free, self._count, said)

    def disconnected(self, feeder: FeederRecord, now: float) -> None:
        """Its connection broke."""
        feeder.gone_s = now

    def leave(self, feeder: FeederRecord, out: Effects) -> None:
        """It goes, and has said so."""
        if self._by_process.pop(feeder.said.process, None) is not None:
            self.number += 1
            out.event("feeder_left", feeder=feeder.name)

    def feeds(self, worker: WorkerRecord, address: str) -> None:
        """A worker takes batches of feeders, and can be dialled there."""
        worker.feeds = address
        self.number += 1

    def fed(self, registry: Registry) -> dict[PeerId, Place]:
        """Workers that do, and where feeders can dial them."""
        here = [worker for worker in registry.workers.values() if worker.state is not State.GONE]
        return {w.name: Place(w.feeds, w.incarnation) for w in here if w.feeds is not None}

    def differs(self, worker: PeerId, feeder: PeerId, out: Effects) -> list[str]:
        """A worker has found that a feeder makes something else. What a person should be told of it."""
        out.event("feeder_differs", worker=worker, feeder=feeder)
        if feeder in self._differing:
            return []
        self._differing.add(feeder)
        return [f"{feeder} makes other batches than {worker}, and is not asked: are its files and packages the same?"]

    def left_out(self, worker: PeerId, said: BadSample, out: Effects) -> list[str]:
        """A worker has left a sample out. What a person should be told of it."""
        if said.index in self.bad_samples:
            return []
        self.bad_samples.add(said.index)
        out.event("bad_sample", worker=worker, index=said.index, why=said.why)
        return [f"sample {said.index} is left out: {said.why}"] if len(self.bad_samples) <= TOLD else []

    def tick(self, registry: Registry, now: float, out: Effects) -> None:
        """Time has passed. Workers that have not heard of the last change are told."""
        self._look_who_is_gone(now, out)
        for worker in registry.workers.values():
            if worker.told_feeders < self.number and worker.state is not State.GONE:
                worker.told_feeders = self.number
                out.tell(worker.name, self.message())

    def _look_who_is_gone(self, now: float, out: Effects) -> None:
        for record in list(self._by_process.values()):
            if record.gone_s is not None and now - record.gone_s > GONE_S:
                del self._by_process[record.said.process]
                self.number += 1
                out.event("feeder_lost", feeder=record.name)

    def message(self) -> Feeders:
        """For workers."""
        return Feeders({r.name: Place(r.said.address, r.incarnation) for r in self._by_process.values()})
