"""The relay (`wire/relay.py`): lets workers be called that nobody can dial, and copies what a caller and the called one say.

It copies ciphertext, a message at a time, and holds at most a few of each direction: when one side is slow, the other is not
read.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from roadtrain.view import PeerId
from roadtrain.wire.concurrent import until_one_ends
from roadtrain.wire.relay import ACCEPT, COPIED_BYTES, DIAL, NOBODY, SILENT, SUPERSEDED, UNAUTHORISED, WAIT

ANSWER_S = 10.0
"""How long whoever is called has to answer; then it is not there any more."""
SILENT_S = 90.0
"""A connection through which nothing comes for so long has ended without a word: workers ask for signs of life every 20 s."""
ENDED = (WebSocketDisconnect, RuntimeError)
"""What starlette raises when a WebSocket is over."""
Admits = Callable[[str], str | None]
"""Of a request's authorization: the run it is for, in which peers have their names; None: it is for none."""


@dataclass(slots=True, eq=False)
class Line:
    """Of one that can be called."""

    socket: WebSocket
    incarnation: int


@dataclass(slots=True, eq=False)
class Call:
    """`callee` is there when it has answered."""

    run: str
    caller: WebSocket
    callee: WebSocket | None = None
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Exchange:
    """Who can be called, and the calls. Lives on one asyncio loop. `copied`: bytes so far."""

    def __init__(self) -> None:
        self.copied = 0
        self._lines: dict[tuple[str, PeerId], Line] = {}
        self._calls: dict[int, Call] = {}
        self._numbers = itertools.count(1)

    async def wait(self, run: str, peer: PeerId, incarnation: int, socket: WebSocket) -> None:
        """`peer` can be called on this socket, until it ends or another takes its place."""
        before, line = self._lines.get((run, peer)), Line(socket, incarnation)
        if before is not None and before.incarnation > incarnation:
            await _close(socket, SUPERSEDED, f"a later process is {peer} now")
            return
        self._lines[run, peer] = line
        if before is not None:
            await _close(before.socket, SUPERSEDED, f"another connection is that of {peer} now")
        try:
            while (await socket.receive())["type"] != "websocket.disconnect":
                pass
        finally:
            if self._lines.get((run, peer)) is line:
                del self._lines[run, peer]

    async def dial(self, run: str, peer: PeerId, socket: WebSocket) -> None:
        """Call `peer`, and when it answers, copy until one of the two hangs up."""
        line = self._lines.get((run, peer))
        if line is None:
            await _close(socket, NOBODY, "that peer is not here")
            return
        number, call = next(self._numbers), Call(run, socket)
        self._calls[number] = call
        try:
            with contextlib.suppress(*ENDED):
                await line.socket.send_text(str(number))
            if await _within(ANSWER_S, call.answered) and call.callee is not None:
                await self._splice(socket, call.callee)
            else:
                await _close(line.socket, SILENT, "it did not answer a call")
                await _close(socket, NOBODY, "that peer does not answer")
        finally:
            del self._calls[number]
            call.over.set()

    async def accept(self, run: str, number: int, socket: WebSocket) -> None:
        """Answer a call, until it is over."""
        call = self._calls.get(number)
        if call is None or call.run != run or call.callee is not None:
            await _close(socket, NOBODY, "nobody calls so")
            return
        call.callee = socket
        call.answered.set()
        await call.over.wait()

    async def _splice(self, one: WebSocket, other: WebSocket) -> None:
        try:
            with contextlib.suppress(*ENDED, TimeoutError):
                await until_one_ends([self._copy(one, other), self._copy(other, one)])
        finally:
            for socket in (one, other):
                await _close(socket, 1000, "the other end has hung up")

    async def _copy(self, source: WebSocket, sink: WebSocket) -> None:
        while True:
            async with asyncio.timeout(SILENT_S):
                event = await source.receive()
            data = event.get("bytes")
            if data is None or len(data) > COPIED_BYTES:
                return
            self.copied += len(data)
            await sink.send_bytes(data)


def relay_router(admits: Admits) -> APIRouter:
    """The relay's paths, for an app of any prefix. One that has a {name} in it keeps peers of different names apart."""
    router, exchange = APIRouter(), Exchange()

    async def entered(socket: WebSocket) -> str | None:
        """The run that it is for, when it has been let in."""
        run = admits(socket.headers.get("authorization", ""))
        if run is None:
            await socket.close(UNAUTHORISED, "wrong or missing token")
            return None
        await socket.accept()
        return f"{run}/{socket.path_params.get('name', '')}"

    @router.websocket(WAIT)
    async def wait(socket: WebSocket, peer: PeerId, incarnation: int) -> None:
        if (run := await entered(socket)) is not None:
            await exchange.wait(run, peer, incarnation, socket)

    @router.websocket(DIAL)
    async def dial(socket: WebSocket, peer: PeerId) -> None:
        if (run := await entered(socket)) is not None:
            await exchange.dial(run, peer, socket)

    @router.websocket(ACCEPT)
    async def accept(socket: WebSocket, call: int) -> None:
        if (run := await entered(socket)) is not None:
            await exchange.accept(run, call, socket)

    return router


async def _within(seconds: float, event: asyncio.Event) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


async def _close(socket: WebSocket, code: int, reason: str) -> None:
    with contextlib.suppress(*ENDED):
        await socket.close(code, reason)
