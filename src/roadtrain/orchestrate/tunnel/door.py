"""The coordinator's end of a way through a WebSocket: its connections come out at the coordinator's own port.

Whoever comes so has no more than whoever dials the port: a connection on which TLS is still to be spoken. The tunnel's program
is on this machine, so nobody else is let in here.
"""

from __future__ import annotations

import asyncio
import contextlib
from ipaddress import ip_address

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from roadtrain.orchestrate.tunnel.forwarder import CHUNK_BYTES, PATH
from roadtrain.wire.address import parted


def tunnel_router(address: str) -> APIRouter:
    """The path at which connections to `address` (host:port), the coordinator's own, come out of WebSockets."""
    router = APIRouter()

    @router.websocket(PATH)
    async def tunnel(socket: WebSocket) -> None:
        if socket.client is None or not ip_address(socket.client.host).is_loopback:
            await socket.close(1008, "not from this machine")
            return
        await socket.accept()
        try:
            reader, writer = await asyncio.open_connection(*parted(address))
        except OSError:
            await socket.close(1011, "the coordinator takes no connection")
            return
        there, back = asyncio.create_task(_there(socket, writer)), asyncio.create_task(_back(reader, socket))
        await asyncio.wait([there, back], return_when=asyncio.FIRST_COMPLETED)
        for way in (there, back):
            way.cancel()
        await asyncio.gather(there, back, return_exceptions=True)
        writer.close()
        with contextlib.suppress(RuntimeError):  # it is closed already
            await socket.close()

    return router


async def _there(socket: WebSocket, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(WebSocketDisconnect, KeyError, OSError):  # KeyError: text, where bytes are wanted
        while True:
            writer.write(await socket.receive_bytes())
            await writer.drain()


async def _back(reader: asyncio.StreamReader, socket: WebSocket) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
        while data := await reader.read(CHUNK_BYTES):
            await socket.send_bytes(data)
