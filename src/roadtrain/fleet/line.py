"""A WebSocket to the coordinator on a thread of its own, so that heartbeats never wait for payload; opened again when it breaks,
to whoever is the coordinator then (`fleet/succession.py`).

What is wrong for good (the token, the certificate, another version of roadtrain) ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from roadtrain.errors import PeerError
from roadtrain.fleet.close_codes import FINAL
from roadtrain.fleet.succession import ANSWER_S, CONNECT_S, Mute, Succession
from roadtrain.membership.client import ControlClient, Standing
from roadtrain.membership.frames import FromCoordinator, encode, from_coordinator
from roadtrain.membership.registry import HEARTBEAT_S
from roadtrain.wire.address import parted
from roadtrain.wire.credentials import NAME, Credentials

RETRY_S = (0.05, 0.5)
"""Between two attempts to connect: the first, and the longest."""
SILENT_S = 6.0
"""A coordinator that has said nothing for so long is connected to anew: its beats come every second."""
STILL_S = 1.5
"""Who beats so much later has stood still: Ctrl-Z, or a machine that was asleep."""
LOST_S = 60.0
"""Training that has waited for others for so long while the coordinator was away waits for somebody who is gone."""
FRAME_BYTES_MAX = 4_000_000
"""Longest frame."""


class Line:
    """The line of `state` to the coordinator, wherever `succession` finds it. `start` opens it.

    `news` guards the state; `heard` is called, with it held, when the state has changed. `waits`: whether training waits for
    others. `away`: no coordinator decides for this worker at present.
    """

    def __init__(self, succession: Succession, credentials: Credentials, state: ControlClient) -> None:
        self.state = state
        self.news = threading.Condition()
        self.away = True
        self.heard: Callable[[], None] = lambda: None
        self.waits: Callable[[], bool] = lambda: False
        self._succession, self._credentials = succession, credentials
        self._closing = False
        self._trained_at = self._beaten_at = 0.0
        self._loop = asyncio.new_event_loop()
        self._wake = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="client", daemon=True)

    def start(self) -> None:
        """Connect, and stay so."""
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether the run has ended for this worker."""
        return self.state.standing is Standing.OVER

    def rouse(self) -> None:
        """There is something to say."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    @property
    def succeeded(self) -> bool:
        """See `Succession`."""
        return self._succession.succeeded

    def ask_to_stop(self) -> None:
        """See `ControlClient`. A handler of signals may call it: it happens on the line's own thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ask_to_stop)

    def _ask_to_stop(self) -> None:
        with self.news:
            self.state.ask_to_stop()
            self.heard()
        self._wake.set()

    def hang_up(self) -> None:
        """Say what is left, and close."""
        self._closing = True
        self.rouse()
        self._thread.join(timeout=2)

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
            url = await self._succession.next(self.state.me, self.state.spec, self.state.known)
            try:
                address = parted(urlsplit(url).netloc)
                stream = await asyncio.to_thread(socket.create_connection, address, CONNECT_S)
                stream.setblocking(False)
                await self._converse_at(url, stream)
                self._succession.lost(self._loop.time())
                pause_s = 0.0
            except ConnectionClosed as closed:
                self._look_at(closed)
                self._succession.lost(self._loop.time())
                pause_s = 0.0
            except (InvalidStatus, ssl.SSLCertVerificationError, PeerError) as error:
                if url == self._succession.url:
                    self._give_up(_said(url, error))
                self._succession.failed(url, error, self._loop.time())
            except (Mute, OSError, WebSocketException) as error:
                self._succession.failed(url, error, self._loop.time())
            if not self.away:
                self.away, self._trained_at = True, self._loop.time()
                if _uptime_s() > self._beaten_at + HEARTBEAT_S + STILL_S:
                    self._succession.stood_still()
            if not self._closing and not self.is_over:
                await asyncio.sleep(pause_s)
                pause_s = min(max(2 * pause_s, RETRY_S[0]), RETRY_S[1])
                self._look_whether_lost()

    async def _converse_at(self, url: str, stream: socket.socket) -> None:
        try:
            connection = await connect(
                url + "/api/worker",
                sock=stream,
                additional_headers=dict(self._credentials.metadata),
                ssl=self._credentials.client_context(),
                server_hostname=NAME if self._credentials.secure else None,
                proxy=None,
                compression=None,  # messages are short
                max_size=FRAME_BYTES_MAX,
                ping_interval=None,  # ours say more
                open_timeout=SILENT_S if url == self._succession.url else ANSWER_S,
                close_timeout=1.0,
            )
        except TimeoutError as error:
            raise Mute from error
        async with connection:
            await self._converse(url, connection)

    def _look_whether_lost(self) -> None:
        """Without a coordinator nobody takes over from a worker that has died: whoever waits for it waits for ever."""
        now = self._loop.time()
        if not self.waits():
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
        with self.news:
            self.state.end(reason)
            self.heard()

    async def _converse(self, url: str, connection: ClientConnection) -> None:
        with self.news:
            hello = encode(self.state.hello())
        await connection.send(hello)
        welcome = await _read(connection)
        with self.news:
            leads = self.state.welcome(welcome)
        self._heard_of(url, leads=leads)
        ways = [asyncio.create_task(self._listen(url, connection)), asyncio.create_task(self._speak(connection))]
        try:
            over, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        for way in over:
            way.result()

    def _heard_of(self, url: str, *, leads: bool) -> None:
        if leads:
            self.away = False
        self._succession.found(url, leads=leads)

    async def _listen(self, url: str, connection: ClientConnection) -> None:
        while True:
            frame = await _read(connection)
            with self.news:
                self.state.receive(frame, self._loop.time())
                self._heard_of(url, leads=self.state.led)
                self.heard()

    async def _speak(self, connection: ClientConnection) -> None:
        beat_at = 0.0
        while True:
            self._wake.clear()  # before looking, so that nothing said while this sends is left until the next beat
            with self.news:
                frames = self.state.outgoing()
                closing = self._closing and self.state.idle
            for frame in frames:
                await connection.send(encode(frame))
            if closing:
                await connection.close()
                return
            now = self._loop.time()
            if now >= beat_at:
                if self.away:
                    self._look_whether_lost()
                with self.news:
                    self.state.waits = self.waits()
                    beat = self.state.beat(now)
                await connection.send(encode(beat))
                beat_at, self._beaten_at = now + HEARTBEAT_S, _uptime_s()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(beat_at - now):
                    await self._wake.wait()


def _uptime_s() -> float:
    """Seconds on a clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _said(url: str, error: InvalidStatus | ssl.SSLCertVerificationError | PeerError) -> str:
    match error:
        case InvalidStatus():
            return f"{url} refuses this worker (HTTP {error.response.status_code}): is the token right?"
        case ssl.SSLCertVerificationError():
            return f"{url} has another certificate: is the token the same? ({error.verify_message})"
        case PeerError():
            return f"the coordinator says what this worker does not understand: {error.message}"


async def _read(connection: ClientConnection) -> FromCoordinator:
    """The next frame. Raises Mute, and PeerError for what is none."""
    try:
        async with asyncio.timeout(SILENT_S):
            raw = await connection.recv()
    except TimeoutError as error:
        raise Mute from error
    if isinstance(raw, str):
        raise PeerError("not a frame, but text")
    return from_coordinator(raw)
