"""Runs the coordinator's app on a thread of this process."""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import uvicorn

from roadtrain.errors import RunFailed, UsageError
from roadtrain.fleet.app import MESSAGE_BYTES_MAX, Desk, make_app
from roadtrain.fleet.outbox import Outbox
from roadtrain.wire.address import family, joined

START_S = 10.0
"""Longest wait for the server."""


def _listener(host: str, port: int) -> socket.socket:
    try:
        listener = socket.socket(family(host), socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"{host} is no address of a host ({error.strerror})", "see the launcher") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise UsageError(
            f"the coordinator cannot listen on {joined(host, port)} ({error.strerror})", "choose another port"
        ) from error
    return listener


class Serving:
    """The coordinator at `url`. Other threads reach it through `call`."""

    def __init__(self, desk: Desk, host: str, port: int) -> None:
        """Listen on host:port (0: a free one). Raises UsageError when the port is in use."""
        self.desk = desk
        listener = _listener(host, port)
        self.port: int = listener.getsockname()[1]
        self.url = f"{'wss' if desk.credentials.secure else 'ws'}://{joined(host, self.port)}"
        key, certificate = self._tls(desk)
        config = uvicorn.Config(
            make_app(desk),
            log_level="error",
            lifespan="on",
            ws="websockets-sansio",
            ws_max_size=MESSAGE_BYTES_MAX,
            ws_ping_interval=None,
            timeout_graceful_shutdown=1,
            ssl_keyfile=key,
            ssl_certfile=certificate,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="coordinator", daemon=True
        )
        self._thread.start()
        self._await_start()

    def _tls(self, desk: Desk) -> tuple[str | None, str | None]:
        """Certificate files for uvicorn, which takes no others; readable by this user alone."""
        if not desk.credentials.secure:
            return None, None
        self._folder = tempfile.TemporaryDirectory(prefix="roadtrain-tls-")
        key, certificate = Path(self._folder.name) / "key.pem", Path(self._folder.name) / "certificate.pem"
        key.touch(mode=0o600)
        key.write_bytes(desk.credentials.key_pem)
        certificate.write_bytes(desk.credentials.certificate_pem)
        return str(key), str(certificate)

    def _await_start(self) -> None:
        end = time.monotonic() + START_S
        while not self._server.started or self.desk.loop is None:
            if time.monotonic() > end or not self._thread.is_alive():
                raise RunFailed("the coordinator did not start")
            time.sleep(0.005)

    def exited(self, worker: str) -> None:
        """The launcher saw a worker's process end."""
        self._do(lambda: self.desk.coordinator.exited(worker, self.desk.now()))

    def interrupt(self) -> None:
        """The person pressed Ctrl-C."""
        self._do(lambda: self.desk.coordinator.interrupt(self.desk.now()))

    def _do(self, decision: Callable[[], Outbox]) -> None:
        assert self.desk.loop is not None
        self.desk.loop.call_soon_threadsafe(lambda: self.desk.carry_out(decision()))

    def close(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
        self._thread.join(timeout=5)
