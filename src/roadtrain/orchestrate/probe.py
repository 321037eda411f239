"""How two machines measure the way between them: a WebSocket from one to the other, inside TLS.

| who measures sends | the other answers |
|---|---|
| n bytes | that they are there: n, as text |
| n, as text | n bytes |

So one clock measures round trips and both directions, and the one that is measured only answers. It lets in who has the token
that the coordinator gave to both, once; the one that measures knows it by its key.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import WebSocketException
from websockets.http11 import Request, Response

from roadtrain.errors import RoadtrainError
from roadtrain.fleet.serving import listen
from roadtrain.orchestrate.identity import Identity, meet, trusting
from roadtrain.orchestrate.machine import Door, Probed, ProbeOrder
from roadtrain.wire.address import joined
from roadtrain.wire.congestion import use_bbr
from roadtrain.wire.credentials import NAME, is_loopback

ROUND_TRIPS = 6
"""Of which the shortest counts."""
BURSTS = tuple(1000 * 2**n for n in range(5, 10))
"""Bytes that are sent at once, one burst after the other's answer: each lets the connection send more at a time, and the last one
counts. A megabyte in all."""
LONG_S = 0.25
"""A burst that takes longer is the last."""
ATTEMPT_S = 6.0
"""Longest measurement."""
UNKNOWN_S = 0.3
"""Between two attempts where the other has not heard of the token yet."""
OPEN_S = 3.0
TAKEN_MAX = 3_000_000
"""Bytes that one who measures may send, and may ask for."""
FAILED = (OSError, WebSocketException, TimeoutError, RoadtrainError, ValueError)
"""What is raised where a machine is not reached, or does not answer as it should."""


class ProbeServer:
    """Where others measure this machine. Lives on one asyncio loop. `open` makes it."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._server: Server | None = None
        self._port = 0
        self._expected = ""
        self._spent = ""

    async def open(self, host: str) -> None:
        """Listen at a free port of all addresses, or of `host` where only this machine knows it. Raises UsageError where that
        cannot be."""
        everywhere = "::" if ":" in host else "0.0.0.0"
        listener = listen(host if is_loopback(host) else everywhere, 0)
        self._port = listener.getsockname()[1]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._identity.certificate, self._identity.key)
        self._server = await serve(
            self._answer,
            sock=listener,
            ssl=context,
            process_request=self._let_in,
            compression=None,
            max_size=BURSTS[-1],
            open_timeout=OPEN_S,
            close_timeout=1.0,
            ping_interval=None,
            logger=logging.Logger("probe", logging.CRITICAL + 1),  # whoever knocks would be in the agent's words
        )

    def door(self, host: str) -> Door | None:
        """By which others reach it at `host`; None while it is closed."""
        return Door(joined(host, self._port), self._identity.pin.hex()) if self._server is not None else None

    def expect(self, token: str) -> None:
        """Let the one with `token` in, once, and nobody else; "": nobody."""
        self._expected = token if token != self._spent else ""

    async def close(self) -> None:
        """Let nobody in any more."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    def _let_in(self, connection: ServerConnection, request: Request) -> Response | None:
        if not self._expected or request.headers.get("authorization") != f"Bearer {self._expected}":
            return connection.respond(HTTPStatus.FORBIDDEN, "not expected\n")
        self._spent, self._expected = self._expected, ""
        return None

    async def _answer(self, socket: ServerConnection) -> None:
        left = TAKEN_MAX
        with contextlib.suppress(*FAILED):
            async with asyncio.timeout(ATTEMPT_S):
                async for said in socket:
                    size = int(said) if isinstance(said, str) else len(said)
                    left -= max(size, 1)
                    if left < 0 or size > BURSTS[-1]:
                        return
                    await socket.send(bytes(size) if isinstance(said, str) else str(size))


async def measure(order: ProbeOrder) -> Probed:
    """What the way to another machine is like; without a round trip where it is not reached."""
    with contextlib.suppress(*FAILED):
        async with asyncio.timeout(ATTEMPT_S):
            async with await _open(order) as socket:
                return await _measured(order, socket)
    return Probed(token=order.token, rtt_ms=None)


async def _open(order: ProbeOrder) -> ClientConnection:
    """Let in by the other, which may have to hear of the token first. Raises one of FAILED."""
    address, certificate = await asyncio.to_thread(meet, (order.door.address,), bytes.fromhex(order.door.pin))
    while True:
        try:
            return await connect(
                f"wss://{address}",
                additional_headers={"authorization": f"Bearer {order.token}"},
                ssl=trusting(certificate),
                server_hostname=NAME,
                proxy=None,
                compression=None,
                max_size=BURSTS[-1],
                open_timeout=OPEN_S,
                close_timeout=1.0,
                ping_interval=None,
            )
        except WebSocketException:
            await asyncio.sleep(UNKNOWN_S)  # until the time is over


async def _measured(order: ProbeOrder, socket: ClientConnection) -> Probed:
    if not is_loopback(str(socket.remote_address[0])):
        use_bbr(socket.transport.get_extra_info("socket"))

    async def give(size: int) -> None:
        await socket.send(bytes(size))
        await socket.recv()

    async def take(size: int) -> None:
        await socket.send(str(size))
        await socket.recv()

    rtt_s = min([await _seconds(give, 1) for _ in range(ROUND_TRIPS)])
    out = await _mb_per_s(give, rtt_s) if order.rates else None
    back = await _mb_per_s(take, rtt_s) if order.rates else None
    return Probed(token=order.token, rtt_ms=1e3 * rtt_s, out=out, back=back)


async def _seconds(exchange: Callable[[int], Awaitable[None]], size: int) -> float:
    began = time.perf_counter()
    await exchange(size)
    return max(time.perf_counter() - began, 1e-6)


async def _mb_per_s(exchange: Callable[[int], Awaitable[None]], rtt_s: float) -> float:
    """In 1e6 bytes per second: of the last burst, less the round trip that its answer took."""
    rate = 0.0
    for size in BURSTS:
        took_s = await _seconds(exchange, size)
        rate = size / 1e6 / max(took_s - rtt_s, took_s / 100)
        if took_s - rtt_s > LONG_S:
            break
    return rate
