"""The coordinator's end of all control channels, sans-IO: frames of workers come in, frames to workers go out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import assert_never

from roadtrain.errors import PeerError
from roadtrain.membership.channel import Channel
from roadtrain.membership.coordinator import Coordinator
from roadtrain.membership.effects import Effects
from roadtrain.membership.frames import PROTOCOL, Beat, Down, FromWorkers, Hello, Up, Welcome
from roadtrain.membership.messages import FromWorker, Join, Refused, RunSpec, ToWorker
from roadtrain.membership.phase import Phase
from roadtrain.membership.recall import NotYet
from roadtrain.membership.record import WorkerRecord
from roadtrain.membership.registry import NoPlace
from roadtrain.view import PeerId

SESSIONS_MAX = 10_000
"""Processes that are remembered. Whoever has no worker is forgotten first."""


@dataclass(slots=True)
class Session:
    """One process and its channel, which outlives its connections. `worker`: once it has joined; `outside`: it has asked to, and
    does not take part. `connection`: the number of the present one, 0 for none. `conversation`: as in `Hello`."""

    process: str
    conversation: int
    channel: Channel[ToWorker] = field(default_factory=lambda: Channel())
    worker: WorkerRecord | None = None
    outside: bool = False
    connection: int = 0
    echo: tuple[float, float] = (0.0, 0.0)


class WrongVersion(PeerError):
    """The other end is of a roadtrain that cannot be understood."""


class ControlServer:
    """`coordinator` with the channels to its workers. `record` is given what belongs into the run's records."""

    def __init__(
        self, coordinator: Coordinator, spec: RunSpec, version: str, record: Callable[[Effects], None]
    ) -> None:
        self.coordinator = coordinator
        self.spec, self._version, self._record = spec, version, record
        self._sessions: dict[str, Session] = {}
        self._by_worker: dict[PeerId, Session] = {}
        self._later: dict[str, Join] = {}
        """Of processes that asked while nothing could be decided."""
        self._connections = 0

    def restarted(self, now: float) -> None:
        """This coordinator was started again with what it knew, which is not what it has said to whom."""
        self._sessions.clear()
        self._by_worker.clear()
        self.coordinator.restarted(now)

    # ------------------------------------------------------------------------------------------------ connections

    def connect(self, hello: Hello, now: float) -> tuple[Session, Welcome]:
        """A process connects: its session, and the answer. Raises WrongVersion."""
        if hello.protocol != PROTOCOL:
            raise WrongVersion(f"the coordinator runs roadtrain {self._version}, the worker {hello.version}")
        session = self._sessions.get(hello.process)
        fresh = session is None or session.conversation != hello.conversation
        if session is None or fresh:
            session = self._sessions[hello.process] = Session(hello.process, hello.conversation + 1)
            session.channel.say(self.spec)
            if self.coordinator.store is not None:
                session.channel.say(self.coordinator.store)
            self._forget_strangers()
        else:
            session.channel.connected(hello.heard)
        self._connections += 1
        session.connection = self._connections
        if session.worker is not None:
            self.coordinator.connected(session.worker, now)
        return session, Welcome(PROTOCOL, self._version, session.channel.heard, fresh, self.leads)

    @property
    def leads(self) -> bool:
        """Whether this coordinator decides, and does not only ask whether it may."""
        return self.coordinator.phase is not Phase.RECALLING

    def _forget_strangers(self) -> None:
        while len(self._sessions) > SESSIONS_MAX:
            strangers = [session for session in self._sessions.values() if session.worker is None]
            if not strangers:
                return
            del self._sessions[strangers[0].process]

    def disconnected(self, session: Session, connection: int, now: float) -> None:
        """Connection number `connection` of a session has ended; another may stand already."""
        if session.connection != connection:
            return
        session.connection = 0
        if session.worker is not None and self._by_worker.get(session.worker.name) is session:
            self.coordinator.disconnected(session.worker, now)

    def outgoing(self, session: Session, now: float) -> list[Down]:
        """What is to be written on its present connection."""
        return [Down(number, session.channel.heard, message) for number, message in session.channel.outgoing()]

    def beat(self, session: Session, now: float) -> Beat:
        """The heartbeat to a worker."""
        echo, heard_s = session.echo
        return Beat(session.channel.heard, now, echo, now - heard_s if echo else 0.0)

    # ----------------------------------------------------------------------------------------------------- input

    def receive(self, session: Session, frame: FromWorkers, now: float) -> None:
        """A frame of a connected process. Raises PeerError when its connection is to be closed."""
        match frame:
            case Hello():
                raise PeerError("a second Hello")
            case Up(number, heard, message):
                session.channel.acknowledged(heard)
                if session.channel.take(number):
                    self._hear(session, message, now)
            case Beat():
                session.channel.acknowledged(frame.heard)
                session.echo = frame.at, now
                worker = session.worker
                if worker is not None:
                    if frame.echo:
                        worker.rtt_s = max(0.0, now - frame.echo - frame.held_s)
                    self.carry_out(self.coordinator.heartbeat(worker, frame.step, now, waits=frame.waits))
            case _:
                assert_never(frame)

    def _hear(self, session: Session, message: FromWorker, now: float) -> None:
        if isinstance(message, Join):
            self._join(session, message, now)
        elif session.outside:
            return  # it says what it has said to another coordinator
        elif session.worker is not None:
            self.carry_out(self.coordinator.receive(session.worker, message, now))
        else:
            self.carry_out(self.coordinator.stranger(message))

    def _join(self, session: Session, said: Join, now: float) -> None:
        if said.process != session.process:
            raise PeerError("a Join in another's name")
        try:
            worker, out = self.coordinator.join(said, now)
        except NotYet:
            self._later[session.process] = said
            session.outside = True
            return
        except NoPlace as error:
            session.channel.say(Refused(error.line()))
            session.outside = True
            return
        session.outside = False
        if worker is not None:
            session.worker = worker
            self._by_worker[worker.name] = session
        self.carry_out(out)

    def carry_out(self, out: Effects) -> None:
        """Keep the records, and put each message into its channel."""
        for name, message in out.messages:
            session = self._by_worker.get(name)
            if session is not None:
                session.channel.say(message)
        for message in out.everyone:
            for session in self._sessions.values():
                if not session.outside:
                    session.channel.say(message)
        self._record(out)

    def tick(self, now: float) -> None:
        """Time has passed."""
        self.carry_out(self.coordinator.tick(now))
        if self._later and self.leads:
            later, self._later = self._later, {}
            for process, said in later.items():
                if process in self._sessions:
                    self._join(self._sessions[process], said, now)

    def connected(self) -> list[Session]:
        """Sessions with a connection."""
        return [session for session in self._sessions.values() if session.connection]
