"""The dialling end of a way through a WebSocket: a port of this machine, whose connections come out at a coordinator."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from concurrent.futures import Future
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

SCHEME, PATH = "wss://", "/tunnel"
CHUNK_BYTES = 1 << 16
OPEN_S = 10.0
_far: dict[str, str] = {}


def is_wrapped(address: str) -> bool:
    """Whether an address of a ticket is that of a WebSocket."""
    return address.startswith(SCHEME)


def dialled(address: str) -> str:
    """Where to dial (host:port) to come to `address`, host:port or wss://HOST. Raises OSError where no port can be opened."""
    return _forwarder(address) if is_wrapped(address) else address


def far_of(address: str) -> str:
    """What is really dialled where `address` (host:port) is."""
    return _far.get(address, address)


@functools.cache
def _forwarder(address: str) -> str:
    """One for each address, on a thread that lives as long as the process."""
    opened: Future[int] = Future()

    async def serve() -> None:
        try:
            server = await asyncio.start_server(functools.partial(_forward, address), "127.0.0.1", 0)
        except OSError as error:
            opened.set_exception(error)
            return
        opened.set_result(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    threading.Thread(target=lambda: asyncio.run(serve()), name="forwarder", daemon=True).start()
    here, parts = f"127.0.0.1:{opened.result()}", urlsplit(address)
    _far[here] = f"{parts.hostname}:{parts.port or 443}"
    return here


async def _forward(address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection. Where the other end cannot be reached it is closed."""
    try:
        async with connect(address + PATH, compression=None, max_size=None, open_timeout=OPEN_S) as socket:
            ways = [asyncio.create_task(_there(reader, socket)), asyncio.create_task(_back(socket, writer))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
    except (OSError, TimeoutError, WebSocketException):
        pass
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _there(reader: asyncio.StreamReader, socket: ClientConnection) -> None:
    while data := await reader.read(CHUNK_BYTES):
        await socket.send(data)


async def _back(socket: ClientConnection, writer: asyncio.StreamWriter) -> None:
    async for data in socket:
        if isinstance(data, bytes):
            writer.write(data)
            await writer.drain()
