"""A relay on loopback for the tests of this folder, and carriers that meet there."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import uvicorn
from carriers import LIMIT, ONE, OPEN, fail
from websockets.exceptions import InvalidState

from roadtrain.fleet.serving import listen, server_of
from roadtrain.launch.relay import relay_app
from roadtrain.wire.carrier import GrpcCarrier
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.limits import Limits
from roadtrain.wire.relay import Relay


class Place:
    """A relay at a port of its own; `stop` and `start` may follow each other."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self.port = free_port()
        self.relay = Relay.with_token(f"{'wss' if credentials.secure else 'ws'}://127.0.0.1:{self.port}", credentials)
        self.start()

    def start(self) -> None:
        self._server = server_of(relay_app(self._credentials), self._credentials)
        listener = listen("127.0.0.1", self.port)
        self._thread = threading.Thread(target=self._run, args=(self._server, listener), daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)

    @staticmethod
    def _run(server: uvicorn.Server, listener: socket.socket) -> None:
        with contextlib.suppress(InvalidState):  # of a connection that was closing already at the end
            server.run(sockets=[listener])

    def stop(self) -> None:
        self._server.force_exit = self._server.should_exit = True
        self._thread.join()


@contextlib.contextmanager
def place(credentials: Credentials = OPEN) -> Iterator[Place]:
    made = Place(credentials)
    try:
        yield made
    finally:
        made.stop()


async def hidden(name: str, relay: Relay, credentials: Credentials = OPEN, incarnation: int = 1) -> GrpcCarrier:
    """A carrier that nobody can dial."""
    made = GrpcCarrier(credentials, None, Limits(message=LIMIT), relay)
    await made.listen(None)
    made.join(name, incarnation)
    made.failed = fail
    return made


@contextlib.asynccontextmanager
async def hidden_pair(relay: Relay, credentials: Credentials = OPEN) -> AsyncIterator[tuple[GrpcCarrier, GrpcCarrier]]:
    """Two carriers, a and b, that know each other and cannot be dialled."""
    a, b = [await hidden(name, relay, credentials) for name in "ab"]
    a.connect({"b": ""}, ONE)
    b.connect({"a": ""}, ONE)
    try:
        yield a, b
    finally:
        await a.close()
        await b.close()


def listening_sockets() -> set[str]:
    """Inodes of the TCP sockets on which this process listens."""
    held = set[str]()
    for file in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            held.add(str(file.readlink()).removeprefix("socket:[").removesuffix("]"))
    found = set[str]()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and columns[9] in held:
                found.add(columns[9])
    return found


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
