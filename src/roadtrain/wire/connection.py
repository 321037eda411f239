"""The connection to one peer: one stream at a time, dialled by whichever side can, replaced when it breaks.

The peer with the smaller id dials at once, the other one when no stream has come up 1.5 s later; each again and again, with
back-off. Where two come up, both sides keep the same one. Towards the smaller peer that is: each stream that it dials takes
the place of the one before, at both ends. A stream that the other dials to it, while it has one, is a race or the sign that its
own is dead at the other end: in a race the other drops its attempt, so it is taken when it is still there a little later.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import cast

import grpc

from roadtrain.errors import PacketError, PeerError
from roadtrain.message import Envelope
from roadtrain.view import PeerId
from roadtrain.wire.congestion import prefer_bbr
from roadtrain.wire.hello import Hello, OtherVersion
from roadtrain.wire.pace import Declared, Measured
from roadtrain.wire.send_queue import SendQueue
from roadtrain.wire.stream import ENDED, Pipe, Process, Stream
from roadtrain.wire.transport import open_channel

METHOD = "Connect"
DIAL_AFTER_S = 1.5
"""How long the peer with the greater id waits to be dialled."""
HELLO_S = 10.0
"""Longest wait for a connection and a hello."""
RACE_S = 0.5
"""How long a stream that may have lost a race is watched before it replaces another."""
UNREACHED_S = 30.0
"""A peer with which there has been no stream for so long cannot be reached."""
RETRY_S = 0.2
"""First pause before a peer is dialled again; it doubles up to"""
RETRY_MAX_S = 5.0


class Connection:
    """Outlives its streams. `incarnation`: of the peer's process, where a later one is met at once."""

    def __init__(self, process: Process, peer: PeerId, address: str, incarnation: int) -> None:
        self._process = process
        self._peer = peer
        self._address = address
        self._incarnation = incarnation
        self._first = process.me.peer < peer
        pace = Declared(process.egress.chunk_bytes) if process.egress.shapes else Measured()
        self._queue = SendQueue(pace, process.limits.queue)
        self._stream: Stream | None = None
        self._switching = asyncio.Lock()
        self._up, self._down, self._moved = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._down.set()
        self._met = False
        self._away_s = asyncio.get_running_loop().time()

    @property
    def unreached(self) -> bool:
        """Whether there has been no stream for long."""
        return self._stream is None and asyncio.get_running_loop().time() - self._away_s > UNREACHED_S

    @property
    def idle(self) -> bool:
        """Whether everything sent has arrived."""
        return self._queue.idle

    def send(self, envelope: Envelope) -> None:
        """Queue, unless it is under way already."""
        self._queue.put(envelope)
        if self._stream is not None:
            self._stream.wake()

    def move(self, address: str, incarnation: int) -> None:
        """The peer's process is this one now. Nothing that was said to an earlier one is meant for it."""
        if incarnation > self._incarnation:
            self._away_s = asyncio.get_running_loop().time()
            self._replace(incarnation)
            if self._stream is not None and self._stream.peer.incarnation < incarnation:
                self._stream.end()
        if address != self._address:
            self._address, self._met = address, False
            self._moved.set()

    def _replace(self, incarnation: int) -> None:
        self._incarnation = incarnation
        self._queue.clear()

    async def end(self) -> None:
        """Close the stream, if there is one."""
        if self._stream is not None:
            self._stream.end()
            await self._stream.ended.wait()

    # ---------------------------------------------------------------------------------------------- dialling

    async def run(self) -> None:
        """See to it that there is a stream. Raises PeerError when there cannot be one, whoever tries again."""
        pause_s = RETRY_S
        while True:
            await self._down.wait()
            self._moved.clear()
            if not self._first and await self._comes_up(DIAL_AFTER_S):
                continue
            pause_s = RETRY_S if await self._dial() else min(2 * pause_s, RETRY_MAX_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._moved.wait()

    async def _comes_up(self, within_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._up.wait()
        return self._up.is_set()

    async def _dial(self) -> bool:
        """Open a stream and carry messages over it until it ends; whether it was opened."""
        address, opened = self._address, False
        async with open_channel(address, self._process.credentials) as channel:
            connect: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
                f"/roadtrain.Peers/{METHOD}"
            )
            call = connect(metadata=self._process.credentials.metadata, wait_for_ready=True)
            pipe = cast(Pipe, call)
            try:
                hello = await self._met_by(pipe)
                if hello is not None:
                    opened = self._met = True
                    prefer_bbr(address)
                    await self._carry(Stream(self._process, hello, pipe, self._queue), replaces=self._first)
            except grpc.aio.AioRpcError as error:
                self._look_at(error, address)
            except (*ENDED, PacketError, TimeoutError):
                pass
            finally:
                call.cancel()
        return opened

    async def _met_by(self, pipe: Pipe) -> Hello | None:
        """Say hello; what the peer answers. None when that is no longer of interest, or it is not the peer."""
        greeting = asyncio.create_task(self._greet(pipe))
        others = [asyncio.create_task(self._moved.wait())]
        if not self._first:
            others.append(asyncio.create_task(self._up.wait()))
        try:
            await asyncio.wait([greeting, *others], timeout=HELLO_S, return_when=asyncio.FIRST_COMPLETED)
            if not greeting.done() or greeting.cancelled():
                return None
            hello = greeting.result()
        finally:
            for task in (greeting, *others):
                task.cancel()
            await asyncio.wait([greeting, *others])
        return hello if hello.peer == self._peer and hello.incarnation >= self._incarnation else None

    async def _greet(self, pipe: Pipe) -> Hello:
        await pipe.write(self._process.me.encode())
        raw = await pipe.read()
        if not isinstance(raw, bytes):
            raise PacketError("a stream without a hello")
        return Hello.decode(raw)

    def _look_at(self, error: grpc.aio.AioRpcError, address: str) -> None:
        """Raises PeerError for what no other attempt changes; unless the peer was met there before, and this is a stranger."""
        if self._met:
            return
        match error.code():
            case grpc.StatusCode.UNAUTHENTICATED:
                raise PeerError(f"{self._peer} at {address} does not accept the token of this run")
            case grpc.StatusCode.FAILED_PRECONDITION:
                raise OtherVersion(str(error.details()))
            case grpc.StatusCode.UNIMPLEMENTED:
                hint = "install the same roadtrain everywhere"
                raise OtherVersion(f"{self._peer} at {address} has another version of roadtrain", hint)
            case _:
                pass

    # ------------------------------------------------------------------------------------------ being dialled

    async def accept(self, peer: Hello, pipe: Pipe) -> None:
        """Carry messages over a stream that the peer has dialled, until it ends. Raises PeerError when it is not to be."""
        if peer.incarnation < self._incarnation:
            raise PeerError(f"a later process is {self._peer} now")
        if self._first and self._stream is not None and self._stream.peer == peer:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RACE_S):
                    await self._down.wait()
        try:
            await pipe.write(self._process.me.encode())
        except ENDED:
            return
        await self._carry(Stream(self._process, peer, pipe, self._queue), replaces=True)

    async def _carry(self, stream: Stream, *, replaces: bool) -> None:
        """See a stream through. `replaces`: also where there is another."""
        async with self._switching:
            if self._stream is not None and not replaces:
                return
            await self.end()
            if stream.peer.incarnation > self._incarnation:
                self._replace(stream.peer.incarnation)
            self._queue.restart()
            self._stream = stream
            self._up.set()
            self._down.clear()
        try:
            await stream.run()
        finally:
            if self._stream is stream:
                self._stream = None
                self._away_s = asyncio.get_running_loop().time()
                self._up.clear()
                self._down.set()
