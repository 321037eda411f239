"""A worker's line to the coordinator: a WebSocket on a thread of its own, so that heartbeats never wait for payload.

It fulfils the trainer's `Control`. When the coordinator is gone it keeps trying, and training goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from roadtrain.errors import RunFailed
from roadtrain.fleet.letter import Message, as_view
from roadtrain.message import PeerId, View
from roadtrain.session.control import FirstWeights, Joined, JoinRequest
from roadtrain.wire import Credentials
from roadtrain.wire.credentials import NAME

HEARTBEAT_S = 1.0
"""Between two heartbeats. Waking costs the training thread more than sending one does: its caches."""
RETRY_S = 0.3
"""Between two attempts to connect."""
PENDING_MAX = 100_000
"""Messages kept while the coordinator is away; the oldest go first."""


class Client:
    """The coordinator, as a worker sees it."""

    def __init__(self, url: str, credentials: Credentials, connect_s: float, slot: int = 0) -> None:
        self.me: PeerId = ""
        self.incarnation = 0
        self.step = 0
        self.region = 0
        self.away = False
        self._url, self._credentials, self._slot = url, credentials, slot
        self._news = threading.Condition()
        self._briefing: Message | None = None
        self._view: View | None = None
        self._addresses: dict[PeerId, str] = {}
        self._first: dict[PeerId, dict[str, str]] = {}
        self._stores: dict[tuple[int, int], str] = {}
        self._begun = 0
        self._hold = False
        self._stop: int | None = None
        self._finish: Message | None = None
        self._ordered = False
        self._refusal = ""
        self._introduction: Message | None = None
        self._bye = False
        self._pending: deque[Message] = deque(maxlen=PENDING_MAX)
        self._wake: asyncio.Event | None = None
        self._on_view: Callable[[View, dict[PeerId, str]], None] | None = None
        self._on_end: Callable[[str], None] | None = None
        self._loop = asyncio.new_event_loop()
        self._life = self._loop.create_task(self._live())
        self._thread = threading.Thread(target=self._run, name="client", daemon=True)
        self._thread.start()
        with self._news:
            if not self._news.wait_for(lambda: self._briefing is not None or self._bye, timeout=connect_s):
                raise RunFailed(
                    f"no coordinator at {url} within {connect_s:.0f} s", "is it running, is the token right?"
                )

    # ------------------------------------------------------------------------------------------------- thread

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._life)
        except asyncio.CancelledError:
            pass  # by close()
        except Exception as error:  # what cannot be understood will not be understood the next time either
            with self._news:
                self._refusal = (
                    f"the coordinator says what this worker does not understand ({type(error).__name__}: {error})"
                )
                self._end()

    async def _live(self) -> None:
        self._wake = asyncio.Event()
        while not self._bye:
            try:
                async with connect(
                    self._url + "/api/worker",
                    additional_headers=dict(self._credentials.metadata),
                    ssl=self._tls(),
                    server_hostname=NAME if self._credentials.secure else None,
                    proxy=None,
                    compression=None,  # messages are short
                    max_size=4_000_000,
                    ping_interval=None,
                ) as connection:
                    self.away = False
                    await self._converse(connection)
            except (OSError, WebSocketException, TimeoutError):
                pass
            self.away = True
            await asyncio.sleep(RETRY_S)

    def _tls(self) -> ssl.SSLContext | None:
        if not self._credentials.secure:
            return None
        return ssl.create_default_context(cadata=self._credentials.authority_pem.decode())

    async def _converse(self, connection: ClientConnection) -> None:
        self._hear(json.loads(await connection.recv()))
        sender = asyncio.create_task(self._speak(connection))
        try:
            async for text in connection:
                self._hear(json.loads(text))
        finally:
            sender.cancel()

    async def _speak(self, connection: ClientConnection) -> None:
        assert self._wake is not None
        introduced, heartbeat_at = False, 0.0
        while True:
            self._wake.clear()  # before looking, so that nothing said while this sends is left until the next beat
            if not introduced and self._introduction is not None:
                await connection.send(json.dumps(self._introduction))
                introduced = True
            while self._pending:
                await connection.send(json.dumps(self._pending[0]))
                self._pending.popleft()
            if self.me and time.monotonic() >= heartbeat_at:
                await connection.send(json.dumps({"heartbeat": self.step}))
                heartbeat_at = time.monotonic() + HEARTBEAT_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), HEARTBEAT_S)

    def _hear(self, message: Message) -> None:
        with self._news:
            if "briefing" in message:
                self._briefing = message["briefing"]
            if "joined" in message:
                self.me, self.incarnation = message["joined"]["worker"], message["joined"]["incarnation"]
                self._introduction = {"again": message["joined"]}
            if "refused" in message:
                self._refusal = str(message["refused"])
                self._end()
            if "view" in message:
                self._first = message["first"] or self._first
                self._take_view(as_view(message["view"]), message["addresses"])
            if "store" in message:
                place = message["store"]
                self._stores[place["view"], place.get("region", 0)] = place["address"]
            if "freeze" in message:
                self._hold = True
                self.say({"frozen": self._begun})
            if "stop" in message:
                self._stop = int(message["stop"])
            if "finish" in message and not self._ordered:  # it is repeated to one that was away
                self._finish = message["finish"]
            if "bye" in message:
                self._end()
            self._news.notify_all()

    def _end(self) -> None:
        """The run is over: nobody is waited for any more."""
        self._bye = True
        self._news.notify_all()
        if self._on_end is not None:
            self._on_end(self._refusal or "the run has ended")

    def _take_view(self, view: View, addresses: dict[PeerId, str]) -> None:
        if self._view is not None and view.number <= self._view.number:
            return
        self._view, self._addresses = view, addresses
        if self._on_view is not None:
            self._on_view(view, addresses)

    def say(self, message: Message) -> None:
        """Send, now or when the coordinator is back."""
        self._pending.append(message)
        self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None:
            self._loop.call_soon_threadsafe(self._wake.set)

    # ------------------------------------------------------------------------------------------------ joining

    def briefing(self) -> Message:
        """What the run is: its plan, its folder, what to resume. Raises RunFailed when it cannot be understood."""
        if self._briefing is None:
            raise RunFailed(self._refusal or "the run ended before it began")
        return self._briefing

    def join(self, request: JoinRequest) -> Joined:
        """See `Control`."""
        said = {"slot": self._slot, "pid": os.getpid(), "host": socket.gethostname(), **asdict(request)}
        self._introduction = {"join": said}  # said on every connection until it is answered
        self._rouse()
        with self._news:
            self._news.wait_for(lambda: self._view is not None or self._bye)
            if self._view is None:
                raise RunFailed(self._refusal or "the run ended before it began")
            return Joined(self._view, dict(self._addresses), FirstWeights(self._first))

    def on_view(self, call: Callable[[View, dict[PeerId, str]], None]) -> None:
        """See `Control`; also with the current view, if it is not the first."""
        with self._news:
            self._on_view = call
            if self._view is not None and self._view.number > 1:
                call(self._view, self._addresses)

    def on_end(self, call: Callable[[str], None]) -> None:
        """See `Control`."""
        with self._news:
            self._on_end = call
            if self._bye:
                call(self._refusal or "the run has ended")

    # ------------------------------------------------------------------------------------- the trainer's Control

    def may_step(self, step: int) -> bool:
        """See `Control`."""
        with self._news:
            self._news.wait_for(lambda: not self._hold or self._stop is not None or self._bye or self.away)
            if self._bye or (self._stop is not None and step > self._stop):
                return False
            self._begun = step
            self.step = step - 1
            return True

    def log(self, record: Message) -> None:
        """See `Control`."""
        self.step = int(record["step"])
        self.say({"metrics": record})

    def event(self, name: str, **details: Any) -> None:
        """See `Control`."""
        self.say({"event": {"event": name, **details}})

    def is_first(self) -> bool:
        """See `Control`."""
        return self._view is not None and self._view.peers[:1] == (self.me,)

    def next_view(self, after: int, timeout_s: float) -> View:
        """See `Control`."""
        with self._news:
            self._news.wait_for(lambda: self._bye or (self._view and self._view.number > after), timeout=timeout_s)
            if self._view is None or self._view.number <= after:
                raise TimeoutError(f"no view after number {after}")
            return self._view

    def meeting_point(self, view: View, mine: str | None) -> str:
        """See `Control`."""
        if mine is not None:
            self.say({"store": {"view": view.number, "region": self.region, "address": mine}})
            return mine
        with self._news:
            place = view.number, self.region
            self._news.wait_for(lambda: place in self._stores, timeout=30.0)
            if place not in self._stores:
                raise RuntimeError("the first member of the view did not say where to meet")
            return self._stores.pop(place)  # a second meeting of the same members has a place of its own

    # ------------------------------------------------------------------------------------------------- the end

    def await_end(self, linger_s: float) -> Message | None:
        """After the last step: the order to finish (for one worker), or None when it is time to go.

        Without a coordinator the first member finishes on its own, and the others serve their state for `linger_s`.
        """
        gone_since = time.monotonic()
        with self._news:
            while not self._bye and self._finish is None:
                self._news.wait(0.2)
                if not self.away:
                    gone_since = time.monotonic()
                if time.monotonic() - gone_since > linger_s / 3 and self.is_first():
                    self._ordered = True
                    return {"steps": None, "evaluate": True}
                if time.monotonic() - gone_since > linger_s:
                    return None
            order, self._finish = self._finish, None
            self._ordered = self._ordered or order is not None
            return order

    def done(self, step: int, *, complete: bool, stats: Message) -> None:
        """See `Control`."""
        self._on_end = None  # what follows is its own end
        self.say({"done": {"step": step, "complete": complete, "stats": stats}})

    def farewell(self, stats: Message) -> None:
        """See `Control`."""
        self.say({"farewell": stats})

    def result(self, found: Message) -> None:
        """See `Control`."""
        self.say({"result": found})

    def close(self) -> None:
        """Send what is left and hang up."""
        end = time.monotonic() + 2.0
        while self._pending and not self.away and time.monotonic() < end:
            time.sleep(0.01)
        self._bye = True
        self._loop.call_soon_threadsafe(self._life.cancel)
        self._thread.join(timeout=2)
