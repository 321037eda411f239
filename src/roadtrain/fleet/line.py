"""A WebSocket to the coordinator on a thread of its own, so that heartbeats never wait for payload; opened again when it breaks.

What is wrong for good (the token, the certificate, another version of roadtrain) ends it at once.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from roadtrain.errors import PeerError
from roadtrain.fleet.close_codes import FINAL
from roadtrain.membership.client import ControlClient, Standing
from roadtrain.membership.frames import encode, from_coordinator
from roadtrain.membership.registry import HEARTBEAT_S
from roadtrain.wire import Credentials
from roadtrain.wire.credentials import NAME

RETRY_S = (0.05, 1.0)
"""Between two attempts to connect: the first, and the longest."""
SILENT_S = 6.0
"""A coordinator that has said nothing for so long is connected to anew: its beats come every second."""
LOST_S = 60.0
"""Training that has waited for others for so long while the coordinator was away waits for somebody who is gone."""
FRAME_BYTES_MAX = 4_000_000
"""Longest frame."""


class Line:
    """The line of `state` to the coordinator at `url`. `start` opens it.

    `news` guards the state; `heard` is called, with it held, when the state has changed. `waits`: whether training waits for
    others.
    """

    def __init__(self, url: str, credentials: Credentials, state: ControlClient) -> None:
        self.state = state
        self.news = threading.Condition()
        self.away = True
        self.heard: Callable[[], None] = lambda: None
        self.waits: Callable[[], bool] = lambda: False
        self._url, self._credentials = url, credentials
        self._closing = False
        self._trained_at = 0.0
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

    def _tls(self) -> ssl.SSLContext | None:
        if not self._credentials.secure:
            return None
        return ssl.create_default_context(cadata=self._credentials.authority_pem.decode())

    async def _converse(self, connection: ClientConnection) -> None:
        with self.news:
            hello = encode(self.state.hello())
        await connection.send(hello)
        welcome = from_coordinator(_bytes(await asyncio.wait_for(connection.recv(), SILENT_S)))
        with self.news:
            self.state.welcome(welcome)
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
            with self.news:
                self.state.receive(frame, self._loop.time())
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
                with self.news:
                    self.state.waits = self.waits()
                    beat = self.state.beat(now)
                await connection.send(encode(beat))
                beat_at = now + HEARTBEAT_S
            try:
                await asyncio.wait_for(self._wake.wait(), max(0.0, beat_at - now))
            except TimeoutError:
                continue


def _bytes(message: str | bytes) -> bytes:
    if isinstance(message, str):
        raise PeerError("not a frame, but text")
    return message
