"""A whole state from one worker to another, beside the protocol: the first weights, and what a run has ended with.

The receiver asks, and gets chunks of raw bytes; it knows before how many there must be. What they hold is checked by a digest
that came another way. Lost connections are tried again from the beginning.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import grpc
from google.protobuf.message import DecodeError

from roadtrain.errors import PacketError
from roadtrain.view import PeerId
from roadtrain.wire import roadtrain_pb2 as pb
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.meter import Meter, carried
from roadtrain.wire.shaper import Shaper
from roadtrain.wire.transport import open_channel

METHOD = "Transfer"
RETRY_S = 0.5
"""Pause before it is asked again."""
OFFER_S = 60.0
"""How long a server waits for what it is asked for before it hangs up."""


class Offers:
    """What this process has to give, by name. Lives on one asyncio loop."""

    def __init__(self, credentials: Credentials, shaper: Shaper, meter: Meter) -> None:
        self._credentials, self._shaper, self._meter = credentials, shaper, meter
        self._offered: dict[str, Sequence[memoryview]] = {}
        self._changed = asyncio.Event()
        self.taken: dict[str, set[PeerId]] = {}

    def offer(self, name: str, parts: Sequence[memoryview]) -> None:
        """Give `parts`, one after the other, to whoever asks for `name`."""
        self._offered[name] = parts
        self.taken.setdefault(name, set())
        self._changed.set()

    def withdraw(self, name: str) -> None:
        """Keep it no longer."""
        self._offered.pop(name, None)

    async def serve(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
        """The gRPC method: chunks of what is asked for."""
        metadata = {str(name): value for name, value in context.invocation_metadata() or ()}
        if not self._credentials.accepts(str(metadata.get("authorization", ""))):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong token")
        try:
            asked = pb.Transfer.FromString(request)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not a request")
        for part in await self._wait_for(asked.name, context):
            for begin in range(0, len(part), self._shaper.chunk_bytes):
                chunk = bytes(part[begin : begin + self._shaper.chunk_bytes])
                await self._shaper.take(carried(len(chunk)))
                self._meter.sent += carried(len(chunk))
                yield chunk
        self.taken.setdefault(asked.name, set()).add(asked.peer)

    async def _wait_for(self, name: str, context: grpc.aio.ServicerContext[bytes, bytes]) -> Sequence[memoryview]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(OFFER_S):
                while name not in self._offered:
                    self._changed.clear()
                    await self._changed.wait()
        if name not in self._offered:
            await context.abort(grpc.StatusCode.NOT_FOUND, "nothing of that name here")
        return self._offered[name]


async def fetch(
    address: str, name: str, me: PeerId, credentials: Credentials, meter: Meter, size: int, within_s: float
) -> bytearray:
    """The `size` bytes that the worker at `address` offers as `name`. Raises PacketError when they do not come in time, or
    are more."""
    why = "no answer"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while True:
                try:
                    body = await _ask(address, name, me, credentials, meter, size)
                except grpc.aio.AioRpcError as error:
                    why = str(error.details())
                else:
                    if len(body) == size:
                        return body
                    why = f"{len(body)} bytes of {size}"
                await asyncio.sleep(RETRY_S)
    raise PacketError(f"{address} did not give its {name} ({why})")


async def _ask(address: str, name: str, me: PeerId, credentials: Credentials, meter: Meter, size: int) -> bytearray:
    body = bytearray()
    async with open_channel(address, credentials) as channel:
        ask: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(f"/roadtrain.Peers/{METHOD}")
        request = pb.Transfer(peer=me, name=name).SerializeToString()
        async for chunk in ask(request, metadata=credentials.metadata, wait_for_ready=True):
            meter.received += carried(len(chunk))
            body += chunk
            if len(body) > size:
                raise PacketError(f"{address} gives more than the {size} bytes of its {name}")
    return body
