"""One open stream to a peer, after the hellos: what its queue gives goes out, what comes in goes to the inbox."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError

from roadtrain.errors import PacketError
from roadtrain.view import Via
from roadtrain.wire.assembler import Assembler
from roadtrain.wire.concurrent import until_one_ends
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.frame import Frame, acknowledgement, decode
from roadtrain.wire.hello import Hello
from roadtrain.wire.inbox import Inbox
from roadtrain.wire.limits import Limits
from roadtrain.wire.line import Line, Parcel
from roadtrain.wire.meter import Meter, carried
from roadtrain.wire.send_queue import SendQueue
from roadtrain.wire.shaper import Shaper
from roadtrain.wire.tunnel import Tunnel
from roadtrain.wire.uplink import Uplink

ACK_BYTES = 8 << 10
"""What was taken in is acknowledged at once when it is so much,"""
ACK_S = 0.005
"""else with the next frame that goes back, or after so long."""
ENDED = (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError)
"""What gRPC raises when a stream is over."""


class Pipe(Protocol):
    """Either end of a gRPC stream."""

    async def read(self) -> object:
        """The next gRPC message, or `grpc.aio.EOF`."""
        ...

    async def write(self, message: bytes, /) -> None:
        """Returns when gRPC has taken it."""
        ...


@dataclass(frozen=True, slots=True)
class Process:
    """What all connections of this process share. The shapers are the two directions of its emulated link, if it has one.

    `listens`: others may dial it; `tunnel`: its ways through a relay, if it has one.
    """

    me: Hello
    credentials: Credentials
    limits: Limits
    egress: Shaper
    ingress: Shaper
    meter: Meter
    uplink: Uplink
    inbox: Inbox
    listens: bool
    tunnel: Tunnel | None


class Stream:
    """`peer`: who is at the other end; `via`: by which way."""

    def __init__(self, process: Process, peer: Hello, pipe: Pipe, queue: SendQueue, via: Via) -> None:
        self.peer, self.via = peer, via
        self.ended = asyncio.Event()
        self._process = process
        self._pipe = pipe
        self._queue = queue
        self._assembler = Assembler(process.me.peer, peer.peer, process.limits.message, process.meter)
        self._wake = asyncio.Event()
        self._ending = asyncio.Event()
        self._taken = self._told = 0
        self._due = False
        self._timer: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """There may be something to send."""
        self._wake.set()

    def end(self) -> None:
        """Neither send nor take in anything more; `ended` is set when all has come to rest."""
        self._ending.set()

    async def run(self) -> None:
        """Carry messages both ways until the stream ends. Raises PacketError when it ends because the peer is not honest, and
        one of `ENDED`."""
        egress = self._process.egress
        work: list[Coroutine[Any, Any, object]] = [self._ending.wait(), self._read()]
        if egress.delay_s:
            line = Line(egress.line_bytes)
            work += [self._write(lambda raw: line.put(Parcel(self._now() + egress.delay_s, raw))), self._delay(line)]
        else:
            work.append(self._write(self._pipe.write))
        try:
            await until_one_ends(work)
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._process.uplink.sends_all(self)
            self.ended.set()

    # -------------------------------------------------------------------------------------------------- out

    async def _write(self, put: Callable[[bytes], Awaitable[None]]) -> None:
        egress, meter, uplink = self._process.egress, self._process.meter, self._process.uplink
        while True:
            ahead = acknowledgement(self._taken) if self._taken > self._told else b""
            raw = self._queue.next(self._now(), ahead) or (ahead if self._due else None)
            (uplink.waits if self._queue.waits else uplink.sends_all)(self)
            if raw is None:
                await self._wait_for_work()
                continue
            self._told, self._due = self._taken, False
            if len(raw) > len(ahead):
                size = carried(len(raw) - len(ahead))
                await egress.take(size)
                meter.sent += size
            await put(raw)

    async def _wait_for_work(self) -> None:
        self._wake.clear()
        loop, at = asyncio.get_running_loop(), self._queue.again_at
        timer = None if at is None else loop.call_at(at, self._wake.set)
        await self._wake.wait()
        if timer is not None:
            timer.cancel()

    async def _delay(self, line: Line) -> None:
        while True:
            await self._pipe.write(await line.get())

    # --------------------------------------------------------------------------------------------------- in

    async def _read(self) -> None:
        while True:
            await self._process.inbox.room()
            raw = await self._pipe.read()
            if not isinstance(raw, bytes) or self._ending.is_set():
                return
            try:
                await self._take(decode(raw))
            except (PacketError, DecodeError, ValueError) as error:
                # The stream is out of step or its peer is not one of ours: an honest one opens another.
                self._process.meter.refused += 1
                raise PacketError(str(error)) from error

    async def _take(self, frame: Frame) -> None:
        if frame.taken is not None:
            self._process.uplink.arrived(frame.taken - self._queue.acknowledged_bytes, self._now())
            self._queue.acknowledged(frame.taken, self._now())
            self._wake.set()
            if not frame.size:
                return
        size = carried(frame.size)
        await self._process.ingress.take(size)
        self._process.meter.received += size
        envelope = self._assembler.add(frame, self._now())
        self._taken += frame.size
        if envelope is not None:
            self._process.inbox.put(envelope)
        if self._taken - self._told >= ACK_BYTES:
            self._acknowledge()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(ACK_S, self._acknowledge)

    def _acknowledge(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = self._taken > self._told
        self._wake.set()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
