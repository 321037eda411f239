"""Runs the coordinator's app on a thread of this process."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp
from websockets.exceptions import InvalidState

from roadtrain.errors import RoadtrainError, RunFailed, UsageError
from roadtrain.fleet.app import make_app
from roadtrain.fleet.asking import ask
from roadtrain.fleet.sessions import FRAME_BYTES_MAX, Sessions
from roadtrain.fleet.watched_run import page_token
from roadtrain.membership.effects import Effects
from roadtrain.membership.phase import Phase
from roadtrain.wire.address import family, joined
from roadtrain.wire.congestion import use_bbr
from roadtrain.wire.credentials import Credentials, is_loopback

START_S = 10.0
"""Longest wait for the server."""


def listen(host: str, port: int) -> socket.socket:
    """A socket for host:port (0: a free one). Raises UsageError when it cannot be had, such as a port in use."""
    try:
        # Named, as asyncio looks at it before it turns Nagle's algorithm off, which would hold a second message for 40 ms.
        listener = socket.socket(family(host), socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise UsageError(f"{host} is no address of a host ({error.strerror})", "see the launcher") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if not is_loopback(host):
        use_bbr(listener)  # what workers say to each other through a relay passes here
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise UsageError(f"cannot listen on {joined(host, port)} ({error.strerror})", "choose another port") from error
    return listener


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """For a coordinator that takes another's place: the urls where there may be one too (`others`), and those of them that go
    first if they ask too (`before`)."""

    others: Sequence[str]
    before: Sequence[str]


def config_of(app: ASGIApp, key: Path | None, certificate: Path | None) -> uvicorn.Config:
    """How a coordinator's interface is served: with TLS where there is a key. Says nothing by itself."""
    return uvicorn.Config(
        app,
        log_level="critical",
        lifespan="on",
        ws="websockets-sansio",
        ws_max_size=FRAME_BYTES_MAX,
        ws_ping_interval=None,
        timeout_graceful_shutdown=1,
        ssl_keyfile=key,
        ssl_certfile=certificate,
    )


def server_of(app: FastAPI, credentials: Credentials) -> uvicorn.Server:
    """What serves `app` on a socket, with the certificates of `credentials` where those are encrypted."""
    with tempfile.TemporaryDirectory(prefix="roadtrain-tls-") as folder:  # of this user alone; uvicorn reads no others
        key, certificate = (Path(folder) / name if credentials.secure else None for name in ("key.pem", "cert.pem"))
        if key is not None and certificate is not None:
            key.write_bytes(credentials.key_pem)
            certificate.write_bytes(credentials.certificate_pem)
        config = config_of(app, key, certificate)
        config.load()
    return uvicorn.Server(config)


class Serving:
    """The coordinator, listening at `listener`. Other threads reach it through `exited` and its like."""

    def __init__(self, sessions: Sessions, listener: socket.socket, elsewhere: Elsewhere | None = None) -> None:
        self.sessions = sessions
        self.port: int = listener.getsockname()[1]
        self._elsewhere = elsewhere
        host = listener.getsockname()[0]
        secure, place = sessions.credentials.secure, joined(host, self.port)
        self.url = f"{'wss' if secure else 'ws'}://{place}"
        self.page = "" if secure else f"http://{place}/#{page_token(sessions.credentials)}"
        """Where a browser on this host shows the run. What follows the # stays in the browser."""
        self._server = server_of(make_app(sessions, None if elsewhere is None else self._ask), sessions.credentials)
        self._thread = threading.Thread(target=self._serve, args=(listener,), name="coordinator", daemon=True)
        self._thread.start()
        self._await_start()

    def _serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(InvalidState):  # of a connection that was closing already at the end
            self._server.run(sockets=[listener])

    async def _ask(self) -> None:
        """Until it decides. Where another does, this one is at its end."""
        assert self._elsewhere is not None, "it takes another's place"
        if not await ask(self.sessions, self._elsewhere.others, self._elsewhere.before):
            await self.sessions.hang_up()
            self._server.should_exit = True

    @property
    def has_yielded(self) -> bool:
        """Whether it asked, and found another that decides."""
        return not self._thread.is_alive() and self.sessions.coordinator.phase is Phase.RECALLING

    def _await_start(self) -> None:
        end = time.monotonic() + START_S
        while not self._server.started or self.sessions.loop is None:
            if time.monotonic() > end or not self._thread.is_alive():
                raise RunFailed("the coordinator did not start")
            time.sleep(0.005)

    def exited(self, worker: str) -> None:
        """The launcher saw a worker's process end."""
        self._do(lambda: self.sessions.coordinator.exited(worker, self.sessions.now()))

    def interrupt(self) -> None:
        """The person pressed Ctrl-C."""
        self._do(lambda: self.sessions.coordinator.interrupt(self.sessions.now()))

    def abort(self, error: RoadtrainError) -> None:
        """The run ends at once."""
        self._do(lambda: self.sessions.coordinator.abort(error))

    def _do(self, decision: Callable[[], Effects]) -> None:
        """The coordinator belongs to the server's thread: decisions are made there."""
        assert self.sessions.loop is not None
        self.sessions.loop.call_soon_threadsafe(self.sessions.decide, decision)

    def close(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
        self._thread.join(timeout=5)
