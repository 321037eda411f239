"""The way in: checks the token, puts messages together from their frames, within limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError

from roadtrain.errors import PacketError
from roadtrain.message import Envelope
from roadtrain.view import PeerId
from roadtrain.wire import roadtrain_pb2 as pb
from roadtrain.wire.address import joined
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.frame import Frame, decode
from roadtrain.wire.header import body_bytes, envelope_of
from roadtrain.wire.meter import Meter, carried
from roadtrain.wire.shaper import Shaper
from roadtrain.wire.state_transfer import METHOD, Offers

WINDOW_BYTES = 8 << 20
"""What one stream may send ahead of its reader: 1 Gbit/s over 60 ms. gRPC's own probing starts at 64 KB and grows too slowly."""
ASSEMBLIES_MAX = 4
"""Messages that one stream may have begun and not finished. Senders have one payload on the line at a time."""


@dataclass(slots=True)
class Assembly:
    """A message whose body, of `total` bytes, is still coming; `begun`: how much of it came first, and when."""

    header: pb.Header
    total: int
    begun: tuple[int, float]
    body: bytearray


class Assembler:
    """Frames of one stream to envelopes. Raises PacketError on anything that an honest peer does not send: also a message in the
    name of another peer than the stream's first one."""

    def __init__(self, me: PeerId, limit_bytes: int, meter: Meter) -> None:
        self._me = me
        self._limit = limit_bytes
        self._meter = meter
        self._open: dict[int, Assembly] = {}
        self._peer: PeerId | None = None

    def add(self, frame: Frame, now: float) -> Envelope | None:
        """The envelope that this frame, come at `now` (seconds), completes, if it does."""
        if frame.header is not None:
            if len(self._open) >= ASSEMBLIES_MAX or frame.id in self._open:
                raise PacketError("too many messages begun on one stream")
            if self._peer not in (None, frame.header.source):
                raise PacketError(f"a stream of {self._peer} speaks for {frame.header.source}")
            self._peer = frame.header.source
            total = body_bytes(frame.header, self._limit)
            self._open[frame.id] = Assembly(frame.header, total, (len(frame.chunk), now), bytearray())
        assembly = self._open.get(frame.id)
        if assembly is None:
            raise PacketError("a chunk of no known message")
        missing = assembly.total - len(assembly.body) - len(frame.chunk)
        if missing < 0:
            raise PacketError("a body longer than announced")
        assembly.body += frame.chunk
        if missing:
            return None
        del self._open[frame.id]
        early, begun_s = assembly.begun
        self._meter.receiving_bytes += assembly.total - early
        self._meter.receiving_s += now - begun_s
        return envelope_of(assembly.header, assembly.body, self._me)


class Server:
    """Listens for the streams of all peers."""

    def __init__(
        self,
        me: PeerId,
        credentials: Credentials,
        shaper: Shaper,
        meter: Meter,
        limit_bytes: int,
        deliver: Callable[[Envelope], None],
        offers: Offers,
    ) -> None:
        self._me = me
        self._credentials = credentials
        self._shaper = shaper
        self._meter = meter
        self._limit = limit_bytes
        self._deliver = deliver
        self._offers = offers
        window = [("grpc.http2.lookahead_bytes", WINDOW_BYTES), ("grpc.http2.bdp_probe", 0)]
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *window])

    async def start(self, host: str) -> int:
        """Listen on a free port of `host`; returns it."""
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_unary_rpc_method_handler(self._send)
        transfer: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(self._offers.serve)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("roadtrain.Peers", {"Send": handler, METHOD: transfer}),)
        )
        secure = self._credentials.server()
        address = joined(host, 0)
        port = (
            self._server.add_insecure_port(address) if secure is None else self._server.add_secure_port(address, secure)
        )
        await self._server.start()
        return port

    async def stop(self) -> None:
        """Close all streams."""
        await self._server.stop(grace=None)

    async def _send(self, frames: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        metadata = {str(name): value for name, value in context.invocation_metadata() or ()}
        if not self._credentials.accepts(str(metadata.get("authorization", ""))):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong token")
        assembler = Assembler(self._me, self._limit, self._meter)
        clock = asyncio.get_running_loop().time
        async for raw in frames:
            size = carried(len(raw))
            await self._shaper.take(size)
            self._meter.received += size
            try:
                envelope = assembler.add(decode(raw), clock())
            except (PacketError, DecodeError, ValueError) as error:
                # The stream is out of step or its peer is not one of ours: drop it; an honest peer opens a new one.
                self._meter.refused += 1
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            if envelope is not None:
                self._deliver(envelope)
        return pb.Receipt().SerializeToString()
