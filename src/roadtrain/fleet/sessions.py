"""The coordinator's connections: feeds it what workers say, sends what it says, keeps its records. Lives on one asyncio loop."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from roadtrain.dashboard.broadcast import Broadcast
from roadtrain.dashboard.series import Series
from roadtrain.errors import PeerError
from roadtrain.fleet.close_codes import ELSEWHERE, MALFORMED, OVER, TOO_LONG, WRONG_VERSION
from roadtrain.fleet.store import Store
from roadtrain.membership.coordinator import Coordinator
from roadtrain.membership.effects import Effects
from roadtrain.membership.frames import Announcer, Hello, encode, from_worker
from roadtrain.membership.messages import RunSpec
from roadtrain.membership.phase import Phase
from roadtrain.membership.registry import HEARTBEAT_S
from roadtrain.membership.server import ControlServer, Session, WrongVersion
from roadtrain.plan import parse
from roadtrain.version import VERSION
from roadtrain.wire.credentials import Credentials

TICK_S = 0.1
"""How often the coordinator looks at its watch."""
FRAME_BYTES_MAX = 4_000_000
"""Longest frame of a worker."""
HELLO_S = 10.0
"""How long whoever connects has to say who it is."""


class HangUp(Exception):
    """This connection, and no other, is to be closed with `code`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


@dataclass(slots=True)
class Turn:
    """`wake`: something is to be written on a connection; `beat_s`: when a heartbeat is."""

    wake: asyncio.Event = field(default_factory=asyncio.Event)
    beat_s: float = 0.0


class Sessions:
    """`coordinator` on its connections. `over` is set when nothing will follow; `broadcast` hears what goes into the records."""

    def __init__(
        self, coordinator: Coordinator, store: Store, credentials: Credentials, spec: RunSpec, broadcast: Broadcast
    ) -> None:
        self.coordinator = coordinator
        self.store = store
        self.run, self.plan, self.broadcast = spec.run, parse(spec.plan), broadcast
        self.series = Series(store.metrics())
        self.credentials = credentials
        self.control = ControlServer(coordinator, spec, VERSION, self._record)
        self.began = time.monotonic()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.over = threading.Event()
        self._sockets: set[WebSocket] = set()
        self._turns: dict[str, Turn] = {}
        """Of the connection of each process."""
        self._announcer = Announcer()
        self._told = False
        """Whether the person has been told that nothing is kept any more."""

    def now(self) -> float:
        """Seconds since the coordinator began."""
        return time.monotonic() - self.began

    def _record(self, out: Effects) -> None:
        """Have what is to be said written, and keep the records. A disk that is full raises nothing here."""
        if out.messages or out.everyone:
            for turn in self._turns.values():
                turn.wake.set()
        if self.coordinator.phase is Phase.OVER:
            self.over.set()
        stamp = round(self.now(), 4)
        for record in out.events:
            self.event({**record, "time_s": stamp})
        for record in out.metrics:
            line = {**record, "time_s": stamp}
            self.store.metric(line)
            self.series.take(line)
            self.broadcast.publish({"event": "metrics", "run": self.run, **line})
        for line in out.ledger:
            self.store.ledger(line)
        if self.store.broken and not self._told:
            self._told = True
            self.coordinator.warnings.append(f"events and metrics are kept no longer: {self.store.broken}")

    def event(self, record: dict[str, Any]) -> None:
        """Something that belongs into the run's events, with its `time_s`."""
        self.store.event(record)
        self.broadcast.publish({"run": self.run, **record})

    def decide(self, decision: Callable[[], Effects]) -> None:
        """Carry out a decision that no worker has brought about."""
        self.control.carry_out(decision())

    async def watch(self) -> None:
        """Let time pass. What goes wrong in one look is said, and the next one is taken all the same."""
        while True:
            await asyncio.sleep(TICK_S)
            now = self.now()
            for turn in self._turns.values():
                if now >= turn.beat_s:  # one clock for all: a timer of each costs more than what it sends
                    turn.wake.set()
            try:
                self.control.tick(self.now())
            except Exception as error:
                self.coordinator.warnings.append(f"the coordinator stumbled: {type(error).__name__}: {error}")

    # ------------------------------------------------------------------------------------------------- workers

    async def attend(self, socket: WebSocket) -> None:
        """One connection, from Hello to its end. Raises HangUp, or PeerError, to have it closed."""
        async with asyncio.timeout(HELLO_S):
            hello = from_worker(await self._read(socket))
        if not isinstance(hello, Hello):
            raise PeerError("no Hello")
        try:
            session, welcome = self.control.connect(hello, self.now())
        except WrongVersion as error:
            self.coordinator.warnings.append(f"a worker was refused: {error.message}")
            raise HangUp(WRONG_VERSION, error.message) from error
        connection, turn = session.connection, Turn()
        self._turns[session.process] = turn
        await socket.send_bytes(encode(welcome))
        sender = asyncio.create_task(self._send(socket, session, turn))
        self._sockets.add(socket)
        try:
            while True:
                frame = from_worker(await self._read(socket))
                self.control.receive(session, frame, self.now())
                if session.worker is None and self.coordinator.phase is Phase.OVER:
                    raise HangUp(OVER, "the run is over")
        finally:
            sender.cancel()
            self._sockets.discard(socket)
            if self._turns.get(session.process) is turn:  # otherwise it is back already, on another connection
                del self._turns[session.process]
            self.control.disconnected(session, connection, self.now())

    async def hang_up(self) -> None:
        """Close all connections: there is another coordinator."""
        for socket in list(self._sockets):
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await socket.close(ELSEWHERE, "there is another coordinator")

    async def _read(self, socket: WebSocket) -> bytes:
        event = await socket.receive()
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event["code"])
        raw = event.get("bytes")
        if raw is None:
            raise HangUp(MALFORMED, "not a frame, but text")
        if len(raw) > FRAME_BYTES_MAX:
            raise HangUp(TOO_LONG, "message too long")
        return raw

    async def _send(self, socket: WebSocket, session: Session, turn: Turn) -> None:
        """What is to be said, and a heartbeat every second. The reader sees the end of the connection too."""
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            while self._turns.get(session.process) is turn:
                turn.wake.clear()
                for frame in self.control.outgoing(session, self.now()):
                    await socket.send_bytes(self._announcer.encode(frame))
                if self.now() >= turn.beat_s:
                    turn.beat_s = self.now() + random.uniform(0.9, 1.0) * HEARTBEAT_S  # or all beat at the same moment
                    await socket.send_bytes(encode(self.control.beat(session, self.now())))
                await turn.wake.wait()
