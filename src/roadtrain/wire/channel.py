"""The way out to one peer: control before payload, one payload at a time, in chunks; reconnecting."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable

import grpc

from roadtrain.message import CONTROL, Envelope
from roadtrain.wire.congestion import prefer_bbr
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.frame import encode
from roadtrain.wire.header import header_of
from roadtrain.wire.line import Line, Parcel
from roadtrain.wire.meter import Meter, carried
from roadtrain.wire.shaper import Shaper
from roadtrain.wire.state_transfer import open_channel

RECONNECT_S = 0.2
"""Pause before a broken stream is opened again."""
QUEUE_MAX = 20_000
"""Messages that wait for one peer; over that the newest is dropped, and the protocol asks again."""


def key(envelope: Envelope) -> tuple[object, ...]:
    """What makes two envelopes the same message: a message still on its way out is not queued twice."""
    message = envelope.message
    numbers = (getattr(message, name, None) for name in ("fragment", "clock", "version", "question"))
    return (type(message), envelope.view, *numbers)


class Channel:
    """Outgoing stream to `address`. `shaper` is shared by all channels of this process."""

    def __init__(self, address: str, credentials: Credentials, shaper: Shaper, meter: Meter) -> None:
        self._address = address
        self._credentials = credentials
        self._shaper = shaper
        self._meter = meter
        self._control: deque[Envelope] = deque()
        self._payload: deque[Envelope] = deque()
        self._queued: set[tuple[object, ...]] = set()
        self._wake = asyncio.Event()
        self._line = Line(shaper.line_bytes)
        self._tasks: list[asyncio.Task[None]] = []
        self._id = 0

    def start(self, failed: Callable[[BaseException], None]) -> None:
        """Begin to send what is queued; `failed` is told of an error that ends that."""
        self._tasks = [asyncio.create_task(self._shape()), asyncio.create_task(self._stream())]

        def ended(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None:
                failed(error)

        for task in self._tasks:
            task.add_done_callback(ended)

    async def close(self) -> None:
        """Stop; what is still queued is dropped."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def queue(self, envelope: Envelope) -> None:
        """Send when it is its turn."""
        name = key(envelope)
        if name in self._queued or len(self._queued) >= QUEUE_MAX:
            return
        self._queued.add(name)
        (self._control if isinstance(envelope.message, CONTROL) else self._payload).append(envelope)
        self._wake.set()

    @property
    def idle(self) -> bool:
        """Whether everything queued has been handed to the connection."""
        return not self._queued and self._line.empty

    # ------------------------------------------------------------------------------------------------ shaping

    async def _shape(self) -> None:
        """Queue to line: at the link's rate, each frame stamped with the time at which its delay is over."""
        while True:
            while not (self._control or self._payload):
                self._wake.clear()
                await self._wake.wait()
            await self._send_controls()
            if self._payload:
                await self._send(self._payload.popleft())

    async def _send_controls(self) -> None:
        while self._control:
            await self._send(self._control.popleft())

    async def _send(self, envelope: Envelope) -> None:
        """Put a message's frames on the line; control messages go in between those of a payload."""
        header, parts = header_of(envelope)
        self._id += 1
        number, first = self._id, True
        for raw in encode(number, header, parts, self._shaper.chunk_bytes):
            if not first:
                await self._send_controls()
            await self._put(number, first, raw)
            first = False
        self._queued.discard(key(envelope))

    async def _put(self, number: int, first: bool, raw: bytes) -> None:
        size = carried(len(raw))
        await self._shaper.take(size)
        due = asyncio.get_running_loop().time() + self._shaper.delay_s
        await self._line.put(Parcel(number, first, due, raw))
        self._meter.sent += size

    # ----------------------------------------------------------------------------------------------- transport

    async def _stream(self) -> None:
        """Line to peer. When the stream breaks, what was on it is lost, as on any line; the protocol asks again."""
        while True:
            async with open_channel(self._address, self._credentials) as channel:
                send: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary("/roadtrain.Peers/Send")
                await self._see_through(send(metadata=self._credentials.metadata, wait_for_ready=True))
            await asyncio.sleep(RECONNECT_S)

    async def _see_through(self, call: grpc.aio.StreamUnaryCall[bytes, bytes]) -> None:
        """Write until the call ends. A writer that outlived its call would take a frame from the line of the next one."""
        writer = asyncio.create_task(self._write(call))

        def over(_: object) -> None:
            writer.cancel()

        call.add_done_callback(over)
        try:
            await asyncio.wait([writer])
        finally:
            writer.cancel()
            call.cancel()
            await asyncio.wait([writer])

    async def _write(self, call: grpc.aio.StreamUnaryCall[bytes, bytes]) -> None:
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):  # the call is over
            await call.wait_for_connection()  # until then everything is better kept on the line
            prefer_bbr(self._address)
            async for raw in self._frames():
                await call.write(raw)

    async def _frames(self) -> AsyncGenerator[bytes, None]:
        """What is on the line, from the next message's beginning: the rest of a cut one is of no use to a new stream.

        Numbers grow along the line, so whatever has a lower one than the first header here was begun on a stream before.
        """
        begun: int | None = None
        while True:
            parcel = await self._line.get()
            if begun is None and parcel.first:
                begun = parcel.number
            if begun is None or parcel.number < begun:
                continue
            left_s = parcel.due_s - asyncio.get_running_loop().time()
            if left_s > 0:  # even a sleep of nothing is a turn of the loop
                await asyncio.sleep(left_s)
            yield parcel.raw
