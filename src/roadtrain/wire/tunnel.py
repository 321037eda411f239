"""This process's ways through a relay: gRPC speaks to a Unix socket, and what passes there travels to the relay and back.

A peer that calls is connected to this process's own server, and whoever dials a peer here reaches that peer's. The sockets are
in a folder that this user alone may enter; no TCP port is opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import socket
import ssl
import tempfile
import time
from collections.abc import AsyncGenerator, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from roadtrain.errors import PeerError
from roadtrain.view import PeerId
from roadtrain.wire.concurrent import until_one_ends
from roadtrain.wire.congestion import use_bbr
from roadtrain.wire.credentials import Credentials, is_loopback
from roadtrain.wire.relay import ACCEPT, COPIED_BYTES, DIAL, SUPERSEDED, WAIT, Relay
from roadtrain.wire.transport import KEEPALIVE_S, KEEPALIVE_WAIT_S, open_channel

PREFIX = "roadtrain-"
"""Of the folder that holds a process's sockets."""
LEFT_S = 600.0
"""A socket that is older, and where nobody answers, is of a process that was killed."""
PATH_BYTES = 100
"""Longest path of a Unix socket that all systems take."""
MESSAGE_BYTES = 1 << 20
"""Longest message of a relay."""
OPEN_S = 10.0
"""Longest wait for the relay's answer."""
RETRY_S = 0.2
"""First pause before the relay is tried again; it doubles up to"""
RETRY_MAX_S = 5.0
AWAY = (OSError, WebSocketException, TimeoutError)
"""What is raised where the relay cannot be reached, or hangs up."""


class Tunnel:
    """Lives on one asyncio loop. `address`: where this process's server has to listen, as gRPC writes it.

    Raises PeerError where there is no place for Unix sockets.
    """

    def __init__(self, relay: Relay, credentials: Credentials) -> None:
        self._relay, self._credentials = relay, credentials.sealed()
        self._tls = relay.tls()
        self._folder = _private_folder()
        self._numbers = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = f"unix:{self._server}"

    @property
    def _server(self) -> Path:
        return Path(self._folder.name) / "server"

    async def close(self) -> None:
        """Hang up."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._folder.cleanup()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # ---------------------------------------------------------------------------------------------- being called

    async def wait(self, me: PeerId, incarnation: int) -> None:
        """Be called as `me`, until a later process is. Raises PeerError for what no other attempt changes."""
        pause_s, met = RETRY_S, False
        while True:
            try:
                async with self._open(f"{WAIT}?peer={quote(me, safe='')}&incarnation={incarnation}", ping=True) as line:
                    pause_s, met = RETRY_S, True
                    async for number in line:
                        self._start(self._answer(int(number)))
            except ConnectionClosed as closed:
                if closed.rcvd is not None and closed.rcvd.code == SUPERSEDED:
                    return
            except (InvalidStatus, ssl.SSLCertVerificationError) as error:
                if not met and not _passes(error):
                    raise PeerError(*_said(self._relay, error)) from error
            except (*AWAY, ValueError):
                pass
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)

    async def _answer(self, number: int) -> None:
        with contextlib.suppress(*AWAY):
            async with self._open(f"{ACCEPT}?call={number}") as line:
                await _splice(line, *await asyncio.open_unix_connection(self._server, limit=COPIED_BYTES))

    # --------------------------------------------------------------------------------------------------- calling

    @contextlib.asynccontextmanager
    async def open_channel(self, peer: PeerId) -> AsyncGenerator[grpc.aio.Channel, None]:
        """A gRPC channel to `peer`, encrypted whatever it passes through."""
        path = Path(self._folder.name) / f"to{next(self._numbers)}"
        dialled: list[asyncio.Task[None]] = []

        def dial(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            dialled.append(self._start(self._dial(peer, reader, writer)))

        server = await asyncio.start_unix_server(dial, path, limit=COPIED_BYTES)
        try:
            async with open_channel(f"unix:{path}", self._credentials) as channel:
                yield channel
        finally:
            server.close()
            path.unlink(missing_ok=True)
            for task in dialled:
                task.cancel()

    async def _dial(self, peer: PeerId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What gRPC has connected to leads to `peer`; where it cannot, gRPC sees the end and tries again."""
        try:
            with contextlib.suppress(*AWAY):
                async with self._open(f"{DIAL}?peer={quote(peer, safe='')}") as line:
                    await _splice(line, reader, writer)
        finally:
            writer.close()

    # ---------------------------------------------------------------------------------------------------- the relay

    @contextlib.asynccontextmanager
    async def _open(self, path: str, *, ping: bool = False) -> AsyncGenerator[ClientConnection, None]:
        """A WebSocket to the relay. `ping`: nothing else keeps it open; what passes through others asks for signs of life."""
        async with connect(
            self._relay.url + path,
            additional_headers={"authorization": self._relay.authorization},
            ssl=self._tls,
            server_hostname=self._relay.name,
            proxy=None,
            compression=None,  # what is encrypted cannot be made smaller
            max_size=MESSAGE_BYTES,
            max_queue=4,
            write_limit=COPIED_BYTES,
            ping_interval=KEEPALIVE_S if ping else None,
            ping_timeout=KEEPALIVE_WAIT_S,
            open_timeout=OPEN_S,
            close_timeout=1.0,
        ) as line:
            if not is_loopback(str(line.remote_address[0])):
                use_bbr(line.transport.get_extra_info("socket"))
            yield line


async def _splice(line: ClientConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy both ways until one end hangs up; each waits for the other to take what it was given."""

    async def out() -> None:
        while data := await reader.read(COPIED_BYTES):
            await line.send(data)

    async def back() -> None:
        async for data in line:
            writer.write(data if isinstance(data, bytes) else data.encode())
            await writer.drain()

    try:
        await until_one_ends([out(), back()])
    finally:
        writer.close()


def _private_folder() -> tempfile.TemporaryDirectory[str]:
    """Of this user alone, with a short enough path. Raises PeerError."""
    for parent in (None, "/tmp"):
        _sweep(Path(parent or tempfile.gettempdir()))
        try:
            folder = tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent)
        except OSError:
            continue
        if len(folder.name.encode()) + len("/to9999999") <= PATH_BYTES:
            return folder
        folder.cleanup()
    raise PeerError("there is no folder for sockets whose path is short enough", "set TMPDIR to one, such as /tmp")


def _sweep(parent: Path) -> None:
    """Remove what processes of this user have left that were killed. Of a living one somebody answers, once it has begun."""
    for server in parent.glob(f"{PREFIX}*/server"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            there = server.stat()
            if there.st_uid != os.getuid() or time.time() - there.st_mtime < LEFT_S:
                continue
            try:
                probe.connect(str(server))
            except ConnectionRefusedError:
                shutil.rmtree(server.parent, ignore_errors=True)


def _passes(error: InvalidStatus | ssl.SSLCertVerificationError) -> bool:
    """Whether it is what a server says that is about to begin, or to end."""
    return isinstance(error, InvalidStatus) and error.response.status_code >= 500


def _said(relay: Relay, error: InvalidStatus | ssl.SSLCertVerificationError) -> tuple[str, str]:
    if isinstance(error, InvalidStatus):
        said = f"the relay at {relay.url} refuses this worker: HTTP {error.response.status_code}"
        return said, "is its token the same?"
    return f"the relay at {relay.url} has another certificate: {error.verify_message}", "is its token the same?"
