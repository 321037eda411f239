"""The control plane on the virtual clock: the real coordinator, and both real ends of its channels, on lines that break."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random

from roadtrain.errors import RunFailed
from roadtrain.membership.client import ControlClient, Standing
from roadtrain.membership.coordinator import Coordinator
from roadtrain.membership.effects import Effects
from roadtrain.membership.frames import FromCoordinator, FromWorkers
from roadtrain.membership.messages import JoinRequest, RunSpec
from roadtrain.membership.recall import Recall
from roadtrain.membership.registry import HEARTBEAT_S, Registry
from roadtrain.membership.server import ControlServer, Session
from roadtrain.simulate.clock import VirtualClock
from roadtrain.simulate.faults import Faults

TICK_S = 0.25
"""How often the coordinator looks at its watch."""
RETRY_S = 0.2
"""How long a worker waits before it connects anew."""
SPEC = RunSpec(run="simulated", plan="", folder="", resume=None, begun=(0, 0))


class ControlLine:
    """One process's line to the coordinator. `heard` is called when its client has taken something in.

    `dead`: the process is gone; `frozen`: it stands still, and what arrives waits; `cut`: nothing passes, and nobody is told.
    """

    def __init__(self, plane: ControlPlane, client: ControlClient, heard: Callable[[], None]) -> None:
        self.client = client
        self.dead = self.frozen = self.cut = False
        self._plane, self._heard = plane, heard
        self._clock = plane.clock
        self._session: Session | None = None
        self._connection = 0
        self._opened = 0
        """Connections so far: what was under way on an earlier one is lost, whoever the coordinator is."""
        self._backlog: deque[FromCoordinator] = deque()
        self._beats = plane.eventful
        self._delay_s = 0.0  # until it has joined: processes come in their order

    @property
    def has_ended(self) -> bool:
        """Whether its process has, or is about to."""
        return self.dead or self.client.standing is Standing.OVER

    # ------------------------------------------------------------------------------------------- the worker's end

    def connect(self) -> None:
        """Open a connection; what was under way on an earlier one is lost."""
        if self.dead or self.client.standing is Standing.OVER:
            return
        if self.frozen or self.cut or not self._plane.up:
            self._clock.at(self._clock.now + RETRY_S, self.connect)
            return
        session, welcome = self._plane.server.connect(self.client.hello(), self._clock.now)
        self._session, self._connection = session, session.connection
        self._opened += 1
        self.client.welcome(welcome)
        self._plane.attached(session, self)
        self.flush()
        self._plane.flush()
        if self._beats:
            self._clock.at(self._clock.now + HEARTBEAT_S, self._beat, self._opened)

    def flush(self) -> None:
        """Write what is to be said."""
        if self._session is not None and not (self.dead or self.frozen):
            for frame in self.client.outgoing():
                self._up(frame)

    def _up(self, frame: FromWorkers) -> None:
        self._plane.later(self._delay_s, self._arrive_up, self._opened, frame)

    def _arrive_up(self, opened: int, frame: FromWorkers) -> None:
        if opened == self._opened and self._session is not None and not self.cut and self._plane.up:
            self._plane.server.receive(self._session, frame, self._clock.now)
            self._plane.flush()

    def _beat(self, opened: int) -> None:
        if opened != self._opened or self._session is None or self.dead:
            return
        if not self.frozen:
            self._up(self.client.beat(self._clock.now))
        self._clock.at(self._clock.now + HEARTBEAT_S, self._beat, opened)

    # --------------------------------------------------------------------------------------- the coordinator's end

    def down(self, frame: FromCoordinator) -> None:
        """The coordinator writes on this connection."""
        self._plane.later(self._delay_s, self._arrive_down, self._opened, frame)

    def _arrive_down(self, opened: int, frame: FromCoordinator) -> None:
        if opened != self._opened or self._session is None or self.dead or self.cut:
            return
        self._backlog.append(frame)
        if not self.frozen:
            self._read()

    def _read(self) -> None:
        while self._backlog:
            self.client.receive(self._backlog.popleft(), self._clock.now)
        if not self._delay_s and self.client.me:
            self._delay_s = self._plane.delay_s()
        self.flush()
        self._heard()

    # ------------------------------------------------------------------------------------------------------- faults

    def break_off(self) -> None:
        """The connection breaks: what is under way on it is lost, both ends see it, and the worker connects anew."""
        session, connection = self._session, self._connection
        self._session, self._connection = None, 0
        self._backlog.clear()
        if session is not None and self._plane.up:
            self._plane.server.disconnected(session, connection, self._clock.now)
        self._clock.at(self._clock.now + RETRY_S, self.connect)

    def die(self) -> None:
        """The process is gone; its host says so."""
        self.dead = True
        if self._session is not None and self._plane.up:
            self._plane.server.disconnected(self._session, self._connection, self._clock.now)

    def thaw(self) -> None:
        """The process goes on where it stood."""
        self.frozen = False
        if not self.dead:
            self._read()
        if self._session is not None and not self.dead:
            self._up(self.client.beat(self._clock.now))  # it is overdue

    def mend(self) -> None:
        """What is said passes again; what was said meanwhile is lost with its connection."""
        self.cut = False
        self.break_off()


class ControlPlane:
    """The coordinator of a simulated run. `eventful`: something may go wrong, so heartbeats and the watch are simulated too.

    `up`: the coordinator's process lives. `changed` is called with every decision. Raises RunFailed from the clock
    where the run fails.
    """

    def __init__(
        self,
        clock: VirtualClock,
        workers: int,
        request: JoinRequest,
        faults: Faults,
        random: Random,
        changed: Callable[[Effects], None],
    ) -> None:
        self.clock = clock
        self.eventful = faults.eventful
        self.up = True
        self.restarts = self.breaks = self.replaced = 0
        self._request = request
        self._expected, self._changed, self._faults, self._random = workers, changed, faults, random
        self.coordinator, self.server = self._fresh()
        self._lines: dict[str, ControlLine] = {}
        self._by_session: dict[str, ControlLine] = {}
        if self.eventful:
            clock.at(TICK_S, self._tick)

    def _fresh(self, recall: bool = False) -> tuple[Coordinator, ControlServer]:
        registry = Registry(self._expected, returns=True, opened=True)
        coordinator = Coordinator(registry, recall=Recall(registry) if recall else None)
        return coordinator, ControlServer(coordinator, SPEC, "simulated", self._record)

    def line(self, process: str, heard: Callable[[], None]) -> ControlLine:
        """The line of a new process."""
        made = self._lines[process] = ControlLine(self, ControlClient(process, "simulated"), heard)
        return made

    def delay_s(self) -> float:
        """Seconds that what is said on a new line takes."""
        return self._random.random() * self._faults.control_s

    def attached(self, session: Session, line: ControlLine) -> None:
        """`line` is the connection of `session` now."""
        self._by_session[session.process] = line

    def later(self, delay_s: float, action: Callable[..., None], *arguments: object) -> None:
        """When what was written has arrived: a line keeps its order, as its delay stays the same."""
        self.clock.at(self.clock.now + delay_s, action, *arguments)

    def flush(self) -> None:
        """Write what the coordinator has to say, on every connection."""
        for session in self.server.connected():
            line = self._by_session[session.process]
            for frame in self.server.outgoing(session, self.clock.now):
                line.down(frame)

    def _record(self, out: Effects) -> None:
        self._changed(out)
        if self.coordinator.error is not None:
            raise RunFailed(self.coordinator.error.message, self.coordinator.error.hint)

    def _bury(self) -> None:
        """A coordinator that takes another's place looks who is dead."""
        recall = self.coordinator.recall
        for name in () if recall is None else recall.unheard():
            if recall is not None and all(line.has_ended for line in self._lines.values() if line.client.me == name):
                recall.refused(name)

    def _tick(self) -> None:
        if self.up:
            self._bury()
            self.server.tick(self.clock.now)
            self.flush()
        self.clock.at(self.clock.now + TICK_S, self._tick)

    # ------------------------------------------------------------------------------------------------------- faults

    def break_lines(self, share: float) -> None:
        """Connections of about this share of all processes break at once."""
        for line in list(self._lines.values()):
            if not line.dead and self._random.random() < share:
                self.breaks += 1
                line.break_off()

    def restart(self, seconds: float) -> None:
        """The coordinator's process dies, and is started again with what it had kept after so many seconds."""
        self.up = False
        self.restarts += 1
        self.clock.at(self.clock.now + seconds, self._come_back)

    def replace(self, seconds: float) -> None:
        """The coordinator's process dies with all that it knew, and another takes its place after so many seconds."""
        heirs = [line.client for line in self._lines.values() if line.client.view is not None and not line.has_ended]
        if self.up and heirs:
            self.up = False
            self.replaced += 1
            self.clock.at(self.clock.now + seconds, self._take_its_place, self._random.choice(heirs))

    def _take_its_place(self, heir: ControlClient) -> None:
        told = heir.view
        if told is None or heir.standing is Standing.OVER:  # it has just found out that it is lost, or that all is over
            self._come_back()
            return
        self.coordinator, self.server = self._fresh(recall=True)
        self.coordinator.registry.recall(told, self._request, self.clock.now)
        self._come_back()

    def _come_back(self) -> None:
        self.up = True
        self.server.restarted(self.clock.now)
        for line in list(self._lines.values()):
            if not line.dead:
                line.break_off()


def join_request(sizes: tuple[int, ...], *, sharded: bool, rounds: bool) -> JoinRequest:
    """What a simulated worker says of its model."""
    return JoinRequest(
        address="virtual",
        structure="",
        digests={},
        sizes=sizes,
        model_bytes=sum(sizes),
        sharded=sharded,
        rounds=rounds,
        period=1,
        plan="",
    )
