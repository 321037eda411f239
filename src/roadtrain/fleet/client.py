"""A worker's line to the coordinator: a WebSocket on a thread of its own, so that heartbeats never wait for payload.

It fulfils the trainer's `Control`. When the coordinator is gone it keeps trying, and training goes on; what is wrong for good
(the token, the certificate, another version of roadtrain) ends the wait at once.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from roadtrain.errors import Interrupted, PeerError, RunFailed
from roadtrain.fleet.close_codes import FINAL
from roadtrain.membership.client import ControlClient, Standing
from roadtrain.membership.frames import encode, from_coordinator
from roadtrain.membership.messages import (
    Done,
    Finish,
    FromWorker,
    Goodbye,
    Happened,
    Holds,
    Join,
    JoinRequest,
    Leave,
    Metrics,
    NewView,
    Rendezvous,
    Result,
    RunSpec,
    Stats,
)
from roadtrain.membership.registry import HEARTBEAT_S
from roadtrain.session.control import FirstWeights, Joined
from roadtrain.version import VERSION
from roadtrain.view import FragmentId, PeerId, View
from roadtrain.wire import Credentials
from roadtrain.wire.credentials import NAME

RETRY_S = (0.05, 1.0)
"""Between two attempts to connect: the first, and the longest."""
SILENT_S = 6.0
"""A coordinator that has said nothing for so long is connected to anew: its beats come every second."""
FRAME_BYTES_MAX = 4_000_000
"""Longest frame."""
LOST_S = 60.0
"""Training that has waited for others for so long while the coordinator was away waits for somebody who is gone."""
Waiting = Callable[[str, float], bool]
TOLD = ("step", "loss")
"""Figures of a metrics record that have a place of their own."""


def no_word(whom: str, seconds: float) -> bool:
    """Waits as long as need be, and says nothing."""
    return True


class Client:
    """The coordinator, as a worker sees it. `open` connects."""

    def __init__(self, url: str, credentials: Credentials, slot: int = 0) -> None:
        self.region = 0
        self.away = True
        self._url, self._credentials, self._slot = url, credentials, slot
        self._state = ControlClient(secrets.token_hex(16), VERSION)
        self._news = threading.Condition()
        self._closing = False
        self._waiting: Waiting = no_word
        self._seen: NewView | None = None
        self._waits: Callable[[], bool] = lambda: False
        self._trained_at = 0.0
        self._begun: Callable[[], None] = lambda: None
        self._on_view: Callable[[View, dict[PeerId, str]], None] | None = None
        self._on_end: Callable[[str], None] | None = None
        self._loop = asyncio.new_event_loop()
        self._wake = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="client", daemon=True)

    @classmethod
    def open(
        cls,
        url: str,
        credentials: Credentials,
        connect_s: float,
        slot: int = 0,
        waiting: Waiting = no_word,
    ) -> Client:
        """Connect, and hear what the run is. `waiting` is told now and then for whom it waits and for how many seconds; where it
        says no, the wait is over.

        Raises RunFailed when there is no coordinator within `connect_s`, or it wants nothing of this process.
        """
        client = cls(url, credentials, slot)
        client._waiting = waiting
        client._thread.start()
        began = time.monotonic()
        with client._news:
            while client._state.spec is None and not client.is_over:
                waited = time.monotonic() - began
                if not waiting("the coordinator", waited):
                    client._closing = True
                    raise Interrupted("stopped before there was a coordinator")
                if waited > connect_s:
                    client._closing = True
                    hint = "is it running, is the token right?"
                    raise RunFailed(f"no coordinator at {url} within {waited:.0f} s", hint)
                client._news.wait(0.2)
        return client

    # ------------------------------------------------------------------------------------------------- thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._live())
        except Exception as error:  # whatever it is, nobody shall wait for it
            self._give_up(f"the line to the coordinator broke: {type(error).__name__}: {error}")

    async def _live(self) -> None:
        pause_s = 0.0
        while not self._closing and not self.is_over:
            try:
                async with connect(
                    self._url + "/api/worker",
                    additional_headers=dict(self._credentials.metadata),
                    ssl=self._tls(),
                    server_hostname=NAME if self._credentials.secure else None,
                    proxy=None,
                    compression=None,  # messages are short
                    max_size=FRAME_BYTES_MAX,
                    ping_interval=None,  # ours say more
                    close_timeout=1.0,
                ) as connection:
                    await self._converse(connection)
                    pause_s = 0.0
                self._trained_at = self._loop.time()
            except ConnectionClosed as closed:
                self._look_at(closed)
                self._trained_at, pause_s = self._loop.time(), 0.0
            except InvalidStatus as error:
                self._give_up(
                    f"{self._url} refuses this worker (HTTP {error.response.status_code}): is the token right?"
                )
            except ssl.SSLCertVerificationError as error:
                self._give_up(f"{self._url} has another certificate: is the token the same? ({error.verify_message})")
            except PeerError as error:
                self._give_up(f"the coordinator says what this worker does not understand: {error.message}")
            except (OSError, WebSocketException, TimeoutError):
                pass
            self.away = True
            if not self._closing and not self.is_over:
                await asyncio.sleep(pause_s)
                pause_s = min(max(2 * pause_s, RETRY_S[0]), RETRY_S[1])
                self._look_whether_lost()

    def _look_whether_lost(self) -> None:
        """Without a coordinator nobody takes over from a worker that has died: whoever waits for it waits for ever."""
        now = self._loop.time()
        if not self._waits():
            self._trained_at = now
        elif now - self._trained_at > LOST_S:
            self._give_up(
                f"the coordinator has been away for long, and another worker has not answered for {LOST_S:.0f} s"
            )

    def _look_at(self, closed: ConnectionClosed) -> None:
        """A connection that was closed with a reason for good is not opened again."""
        code = closed.rcvd.code if closed.rcvd is not None else 0
        if code in FINAL:
            self._give_up(closed.rcvd.reason if closed.rcvd is not None else "")

    def _give_up(self, reason: str) -> None:
        with self._news:
            self._state.end(reason)
            self._heard()

    def _tls(self) -> ssl.SSLContext | None:
        if not self._credentials.secure:
            return None
        return ssl.create_default_context(cadata=self._credentials.authority_pem.decode())

    async def _converse(self, connection: ClientConnection) -> None:
        with self._news:
            hello = encode(self._state.hello())
        await connection.send(hello)
        welcome = from_coordinator(_bytes(await asyncio.wait_for(connection.recv(), SILENT_S)))
        with self._news:
            self._state.welcome(welcome)
        self.away = False
        ways = [asyncio.create_task(self._listen(connection)), asyncio.create_task(self._speak(connection))]
        try:
            over, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        for way in over:
            way.result()

    async def _listen(self, connection: ClientConnection) -> None:
        while True:
            frame = from_coordinator(_bytes(await asyncio.wait_for(connection.recv(), SILENT_S)))
            with self._news:
                self._state.receive(frame, self._loop.time())
                self._heard()

    async def _speak(self, connection: ClientConnection) -> None:
        beat_at = 0.0
        while True:
            self._wake.clear()  # before looking, so that nothing said while this sends is left until the next beat
            with self._news:
                frames = self._state.outgoing()
                closing = self._closing and self._state.idle
            for frame in frames:
                await connection.send(encode(frame))
            if closing:
                await connection.close()
                return
            now = self._loop.time()
            if now >= beat_at:
                with self._news:
                    self._state.waits = self._waits()
                    beat = self._state.beat(now)
                await connection.send(encode(beat))
                beat_at = now + HEARTBEAT_S
            try:
                await asyncio.wait_for(self._wake.wait(), max(0.0, beat_at - now))
            except TimeoutError:
                continue

    def _heard(self) -> None:
        """Something has changed: tell whoever wants to know. The lock is held."""
        state = self._state
        if state.told is not None and state.told is not self._seen:
            self._seen = state.told
            if self._on_view is not None:
                self._on_view(self._seen.view, self._seen.addresses)
        if state.standing is Standing.OVER and self._on_end is not None:
            self._on_end(state.reason or "the run has ended")
            self._on_end = None
        self._news.notify_all()

    def _rouse(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    def say(self, message: FromWorker) -> None:
        """Let the coordinator know, now or when it is back."""
        with self._news:
            self._state.say(message)
        self._rouse()

    @property
    def me(self) -> PeerId:
        """See `Control`."""
        return self._state.me

    @property
    def incarnation(self) -> int:
        """See `Control`."""
        return self._state.incarnation

    @property
    def is_over(self) -> bool:
        """Whether the run has ended for this worker."""
        return self._state.standing is Standing.OVER

    @property
    def _ended(self) -> RunFailed:
        return RunFailed(self._state.reason or "the run ended before it began")

    # ------------------------------------------------------------------------------------------------ joining

    def spec(self) -> RunSpec:
        """What the run is: its plan, its folder, what to resume. Raises RunFailed when it has ended already."""
        if self._state.spec is None:
            raise self._ended
        return self._state.spec

    def join(self, request: JoinRequest) -> Joined:
        """See `Control`."""
        said = Join(self._state.process, self._slot, os.getpid(), socket.gethostname(), request)
        with self._news:
            self._state.introduce(said)
            self._rouse()
            began = time.monotonic()
            while self._state.view is None and not self.is_over:
                if not self._waiting("the other workers", time.monotonic() - began):
                    raise Interrupted("stopped before the run had begun")
                self._news.wait(0.2)
            view = self._state.view
            if view is None or self.is_over:
                raise self._ended
            self._begun()
            return Joined(view.view, dict(view.addresses), FirstWeights(view.first))

    def on_begin(self, call: Callable[[], None]) -> None:
        """Call `call` when this worker is in the run."""
        self._begun = call

    def on_view(self, call: Callable[[View, dict[PeerId, str]], None]) -> None:
        """See `Control`; also with the current view, if it is not the first."""
        with self._news:
            self._on_view = call
            told = self._state.told
            if told is not None and told.view.number > 1:
                call(told.view, told.addresses)

    def on_end(self, call: Callable[[str], None]) -> None:
        """See `Control`."""
        with self._news:
            self._on_end = call
            self._heard()

    def observe(self, waits: Callable[[], bool]) -> None:
        """See `Control`."""
        self._waits = waits

    # ------------------------------------------------------------------------------------- the trainer's Control

    def may_step(self, step: int) -> bool:
        """See `Control`."""
        state = self._state
        with self._news:
            self._news.wait_for(lambda: not state.hold or state.stop is not None or self.is_over or self.away)
            if self.is_over or (state.stop is not None and step > state.stop):
                return False
            state.begun, state.done = step, step - 1
            return True

    def log(self, record: dict[str, Any]) -> None:
        """See `Control`."""
        more = {name: value for name, value in record.items() if name not in TOLD}
        self._state.done = int(record["step"])
        self.say(Metrics(self._state.done, record["loss"], more))

    def event(self, name: str, **details: Any) -> None:
        """See `Control`."""
        self.say(Happened(name, details))

    def holds(self, view: int, fragment: FragmentId) -> None:
        """See `Control`."""
        self.say(Holds(view, fragment))

    def leave(self) -> None:
        """See `Control`."""
        self.say(Leave())

    def is_first(self) -> bool:
        """See `Control`."""
        view = self._state.view
        return view is not None and view.view.peers[:1] == (self.me,)

    def next_view(self, after: int, timeout_s: float) -> View:
        """See `Control`."""
        state = self._state

        def newer() -> View | None:
            return state.told.view if state.told is not None and state.told.view.number > after else None

        with self._news:
            self._news.wait_for(lambda: self.is_over or newer(), timeout=timeout_s)
            found = newer()
            if found is None:
                raise TimeoutError(f"no view after number {after}")
            return found

    def meeting_point(self, view: View, mine: str | None) -> str:
        """See `Control`."""
        if mine is not None:
            self.say(Rendezvous(view.number, self.region, mine))
            return mine
        place, known = (view.number, self.region), self._state.rendezvous
        with self._news:
            self._news.wait_for(lambda: place in known, timeout=30.0)
            if place not in known:
                raise RuntimeError("the first member of the view did not say where to meet")
            return known.pop(place)  # a second meeting of the same members has a place of its own

    # ------------------------------------------------------------------------------------------------- the end

    def await_end(self, linger_s: float) -> Finish | None:
        """See `Control`.

        Without a coordinator the first member finishes on its own, and the others serve their state for `linger_s`.
        """
        gone_since = time.monotonic()
        with self._news:
            while not (self.is_over or self._state.asked_to_finish):
                self._news.wait(0.2)
                if not self.away:
                    gone_since = time.monotonic()
                if time.monotonic() - gone_since > linger_s / 3 and self.is_first():
                    return Finish({}, True)
                if time.monotonic() - gone_since > linger_s:
                    return None
            return self._state.take_finish()

    def done(self, step: int, *, complete: bool, stats: Stats) -> None:
        """See `Control`."""
        self._on_end = None  # what follows is its own end
        self.say(Done(step, complete, stats))

    def farewell(self, stats: Stats) -> None:
        """See `Control`."""
        self.say(Goodbye(stats))

    def result(self, found: dict[str, Any]) -> None:
        """See `Control`."""
        self.say(Result(found))

    def close(self) -> None:
        """Let the coordinator hear what is left, and hang up."""
        end = time.monotonic() + 2.0
        while not (self._state.idle or self.away) and time.monotonic() < end:
            time.sleep(0.01)
        self._closing = True
        self._rouse()
        self._thread.join(timeout=2)


def _bytes(message: str | bytes) -> bytes:
    if isinstance(message, str):
        raise PeerError("not a frame, but text")
    return message
