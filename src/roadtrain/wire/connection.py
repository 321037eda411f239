"""The connection to one peer: one stream at a time, dialled by whichever side can, replaced when it breaks.

There are two ways to a peer: direct, to its address, and through a relay, where there is one. The peer with the smaller id dials
at once, the other one when no stream has come up 1.5 s later; each again and again, with back-off. Who cannot be dialled dials at
once too, and who has nobody to dial waits. The relay's turn is when direct has been tried for 1.5 s, and at once where neither
side can be dialled. Over a relay direct is tried again now and then, and takes its place when it comes up.

Where two streams come up, both sides keep the same one. A direct one comes before one through the relay. Of two of one way, that
of the smaller peer does: each stream that it dials takes the place of the one before, at both ends. A stream that the other dials
to it, while it has one, is a race or the sign that its own is dead at the other end: in a race the other drops its attempt, so it
is taken when it is still there a little later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import cast

import grpc

from roadtrain.errors import PacketError, PeerError
from roadtrain.message import Envelope
from roadtrain.view import LinkState, PeerId, Via
from roadtrain.wire.concurrent import until_one_ends
from roadtrain.wire.congestion import prefer_bbr
from roadtrain.wire.hello import Hello, OtherVersion
from roadtrain.wire.pace import Declared, Measured, Pace
from roadtrain.wire.send_queue import SendQueue
from roadtrain.wire.stream import ENDED, Pipe, Process, Stream
from roadtrain.wire.transport import open_channel

METHOD = "Connect"
DIAL_AFTER_S = 1.5
"""How long the peer with the greater id waits to be dialled, and the relay for a direct stream."""
HELLO_S = 10.0
"""Longest wait for a connection and a hello."""
RACE_S = 0.5
"""How long a stream that may have lost a race is watched before it replaces another."""
UNREACHED_S = 30.0
"""A peer with which there has been no stream for so long cannot be reached."""
RETRY_S = 0.2
"""First pause before a peer is dialled again; it doubles up to"""
RETRY_MAX_S = 5.0
DIRECT_AGAIN_S = 300.0
"""How often a peer that is reached through a relay is dialled directly."""


@dataclass(slots=True, eq=False)
class Way:
    """One way to a peer. `address`: where it is dialled, "" for nowhere; `open`: makes a channel to an address. `pace`: what was
    learned of it. `met`: the peer was there once."""

    via: Via
    address: str
    open: Callable[[str], AbstractAsyncContextManager[grpc.aio.Channel]]
    pace: Pace
    met: bool = False


class Connection:
    """Outlives its streams. `incarnation`: of the peer's process, where a later one is met at once."""

    def __init__(self, process: Process, peer: PeerId, address: str, incarnation: int) -> None:
        self._process = process
        self._peer = peer
        self._incarnation = incarnation
        self._first = process.me.peer < peer
        self._ways = _ways(process, peer, address)
        self._queue = SendQueue(self._ways[Via.DIRECT].pace, process.limits.queue)
        self._stream: Stream | None = None
        self._switching = asyncio.Lock()
        self._news = asyncio.Event()
        self._away_s = asyncio.get_running_loop().time()

    @property
    def unreached(self) -> bool:
        """Whether there has been no stream for long."""
        return self._stream is None and asyncio.get_running_loop().time() - self._away_s > UNREACHED_S

    @property
    def idle(self) -> bool:
        """Whether everything sent has arrived."""
        return self._queue.idle

    @property
    def state(self) -> LinkState | None:
        """How the peer is reached, while it is."""
        if self._stream is None:
            return None
        pace = self._ways[self._stream.via].pace
        return LinkState(self._stream.via, 1e3 * pace.rtt_s or None, None if pace.rate is None else pace.rate / 1e6)

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
        direct = self._ways[Via.DIRECT]
        if address != direct.address:
            direct.address, direct.met = address, False
            self._tell()

    def _replace(self, incarnation: int) -> None:
        self._incarnation = incarnation
        self._queue.clear()

    async def end(self) -> None:
        """Close the stream, if there is one."""
        if self._stream is not None:
            self._stream.end()
            await self._stream.ended.wait()

    # ------------------------------------------------------------------------------------------------- waiting

    def _tell(self) -> None:
        """A stream has come or gone, or the peer has moved: whoever waits looks again."""
        self._news.set()
        self._news.clear()

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._news.wait()

    async def _comes(self, holds: Callable[[], bool], within_s: float) -> bool:
        """Whether it comes to hold in that time."""
        if within_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._until(holds)
        return holds()

    # ---------------------------------------------------------------------------------------------- dialling

    async def run(self) -> None:
        """See to it that there is a stream. Raises PeerError when there cannot be one, whoever tries again."""
        await until_one_ends([self._keep(way) for way in self._ways.values()])

    async def _keep(self, way: Way) -> None:
        """Dial by this way whenever there is no stream that is as good."""
        pause_s = RETRY_S
        while True:
            await self._until(lambda: bool(way.address) and not self._has(way.via))
            if self._stream is None and await self._comes(lambda: self._stream is not None, self._turn_s(way)):
                continue
            address = way.address
            pause_s = RETRY_S if await self._dial(way) else min(2 * pause_s, RETRY_MAX_S)
            await self._rest(way, address, pause_s)

    async def _rest(self, way: Way, dialled: str, pause_s: float) -> None:
        """Between two attempts: longer where there is a stream by another way."""
        if self._stream is None:
            await self._comes(lambda: way.address != dialled, pause_s)
        else:
            await self._comes(lambda: way.address != dialled or self._stream is None, DIRECT_AGAIN_S)

    def _has(self, via: Via) -> bool:
        """Whether there is a stream by this way, or a better one."""
        return self._stream is not None and self._stream.via in (via, Via.DIRECT)

    def _turn_s(self, way: Way) -> float:
        """How long it is until this side dials by this way."""
        after_s = 0.0
        if way.via is Via.RELAY and (self._ways[Via.DIRECT].address or self._process.listens):
            after_s += DIAL_AFTER_S
        if not self._first and (way.via is Via.RELAY or self._process.listens):
            after_s += DIAL_AFTER_S
        return self._away_s + after_s - asyncio.get_running_loop().time()

    async def _dial(self, way: Way) -> bool:
        """Open a stream and carry messages over it until it ends; whether it was opened."""
        address, opened = way.address, False
        async with way.open(address) as channel:
            connect: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
                f"/roadtrain.Peers/{METHOD}"
            )
            call = connect(metadata=self._process.credentials.metadata, wait_for_ready=True)
            pipe = cast(Pipe, call)
            try:
                hello = await self._met_by(way, pipe)
                if hello is not None:
                    opened = way.met = True
                    if way.via is Via.DIRECT:
                        prefer_bbr(address)
                    await self._carry(Stream(self._process, hello, pipe, self._queue, way.via), dialled=True)
            except grpc.aio.AioRpcError as error:
                self._look_at(error, way)
            except (*ENDED, PacketError, TimeoutError):
                pass
            finally:
                call.cancel()
        return opened

    async def _met_by(self, way: Way, pipe: Pipe) -> Hello | None:
        """Say hello; what the peer answers. None when that is no longer of interest, or it is not the peer."""
        address = way.address
        greeting = asyncio.create_task(self._greet(pipe))
        vain = asyncio.create_task(
            self._until(lambda: way.address != address or not self._comes_before(way.via, self._first))
        )
        try:
            await asyncio.wait([greeting, vain], timeout=HELLO_S, return_when=asyncio.FIRST_COMPLETED)
            if not greeting.done() or greeting.cancelled():
                return None
            hello = greeting.result()
        finally:
            for task in (greeting, vain):
                task.cancel()
            await asyncio.wait([greeting, vain])
        return hello if hello.peer == self._peer and hello.incarnation >= self._incarnation else None

    async def _greet(self, pipe: Pipe) -> Hello:
        await pipe.write(self._process.me.encode())
        raw = await pipe.read()
        if not isinstance(raw, bytes):
            raise PacketError("a stream without a hello")
        return Hello.decode(raw)

    def _look_at(self, error: grpc.aio.AioRpcError, way: Way) -> None:
        """Raises PeerError for what no other attempt changes; unless the peer was met there before, and this is a stranger."""
        if way.met:
            return
        whom = f"{self._peer} at {way.address}" if way.via is Via.DIRECT else f"{self._peer}, through the relay,"
        match error.code():
            case grpc.StatusCode.UNAUTHENTICATED:
                raise PeerError(f"{whom} does not accept the token of this run")
            case grpc.StatusCode.FAILED_PRECONDITION:
                raise OtherVersion(str(error.details()))
            case grpc.StatusCode.UNIMPLEMENTED:
                hint = "install the same roadtrain everywhere"
                raise OtherVersion(f"{whom} has another version of roadtrain", hint)
            case _:
                pass

    # ------------------------------------------------------------------------------------------ being dialled

    async def accept(self, peer: Hello, pipe: Pipe, via: Via) -> None:
        """Carry messages over a stream that the peer has dialled, until it ends. Raises PeerError when it is not to be."""
        if peer.incarnation < self._incarnation:
            raise PeerError(f"a later process is {self._peer} now")
        if self._stream is not None and self._stream.peer == peer and not self._comes_before(via, not self._first):
            await self._comes(lambda: self._stream is None, RACE_S)
        try:
            await pipe.write(self._process.me.encode())
        except ENDED:
            return
        await self._carry(Stream(self._process, peer, pipe, self._queue, via), dialled=False)

    def _comes_before(self, via: Via, by_first: bool) -> bool:
        """Whether a stream by that way, dialled by the smaller peer or not, takes the place of the present one at once."""
        if self._stream is None:
            return True
        return by_first if via is self._stream.via else via is Via.DIRECT

    async def _carry(self, stream: Stream, *, dialled: bool) -> None:
        """See a stream through: one that was dialled here, unless there is a better one; or one that was accepted."""
        async with self._switching:
            if dialled and not self._comes_before(stream.via, self._first):
                return
            await self.end()
            if stream.peer.incarnation > self._incarnation:
                self._replace(stream.peer.incarnation)
            self._queue.restart(self._ways[stream.via].pace)
            self._stream = stream
            self._tell()
        try:
            await stream.run()
        finally:
            if self._stream is stream:
                self._stream = None
                self._away_s = asyncio.get_running_loop().time()
                self._tell()


def _ways(process: Process, peer: PeerId, address: str) -> dict[Via, Way]:
    def pace() -> Pace:
        return Declared(process.egress.chunk_bytes) if process.egress.shapes else Measured()

    def dial(address: str) -> AbstractAsyncContextManager[grpc.aio.Channel]:
        return open_channel(address, process.credentials)

    ways = {Via.DIRECT: Way(Via.DIRECT, address, dial, pace())}
    if process.tunnel is not None:
        ways[Via.RELAY] = Way(Via.RELAY, peer, process.tunnel.open_channel, pace())
    return ways
