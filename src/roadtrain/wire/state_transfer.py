"""A whole state from one worker to another, beside the protocol: the first weights, what a newcomer needs, what a run ended with.

The receiver asks, and gets chunks of raw bytes; it knows before how many there must be, or may be. Lost connections are tried
again from the beginning, by each way to the giver in turn.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import cycle
from typing import NamedTuple

import grpc
from google.protobuf.message import DecodeError

from roadtrain.errors import PacketError
from roadtrain.view import PeerId
from roadtrain.wire import roadtrain_pb2 as pb
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.meter import Meter, carried
from roadtrain.wire.shaper import Shaper

METHOD = "Transfer"
RETRY_S = 0.5
"""Pause before it is asked again."""
REFUSED = grpc.StatusCode.FAILED_PRECONDITION
"""To ask again would be of no use."""
NOTHING = ("\0",)
"""No name begins so."""
OFFER_S = 60.0
"""How long a server waits for what it is asked for before it hangs up."""


class Offers:
    """What this process has to give, by name. Lives on one asyncio loop."""

    def __init__(self, credentials: Credentials, shaper: Shaper, meter: Meter) -> None:
        self._credentials, self._shaper, self._meter = credentials, shaper, meter
        self._offered: dict[str, Sequence[memoryview]] = {}
        self._changed = asyncio.Event()
        self._waiting: Counter[str] = Counter()
        self._refused: tuple[str, ...] = ()
        self.taken: dict[str, set[PeerId]] = {}
        self.awaited: frozenset[str] = frozenset()
        """What has been asked for and is not offered. Any thread may look."""

    def offer(self, name: str, parts: Sequence[memoryview]) -> None:
        """Give `parts`, one after the other, to whoever asks for `name`."""
        self._offered[name] = parts
        self.taken.setdefault(name, set())
        self._changed.set()

    def withdraw(self, name: str) -> None:
        """Keep it no longer."""
        self._offered.pop(name, None)

    def refuse(self, prefix: str) -> None:
        """Nothing whose name begins so will be offered any more."""
        self._refused += (prefix,)
        self._changed.set()

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
        self._wait(name, 1)
        try:
            async with asyncio.timeout(OFFER_S):
                while name not in self._offered and not name.startswith(self._refused or NOTHING):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            await context.abort(grpc.StatusCode.NOT_FOUND, "nothing of that name here")
        finally:
            self._wait(name, -1)
        if name not in self._offered:
            await context.abort(REFUSED, "it gives none any more")
        return self._offered[name]

    def _wait(self, name: str, more: int) -> None:
        self._waiting[name] += more
        self.awaited = frozenset(+self._waiting)


class Giver(NamedTuple):
    """Who gives. `address`: where it can be dialled (host:port); "" where it cannot."""

    peer: PeerId
    address: str


class Path(NamedTuple):
    """One way to a giver. `within_s`: how long it is tried before another one's turn comes."""

    open: Callable[[], AbstractAsyncContextManager[grpc.aio.Channel]]
    within_s: float


class Question(NamedTuple):
    """What `me` asks `giver` for: `size` bytes, at most so many unless `exact`."""

    giver: PeerId
    name: str
    me: PeerId
    size: int
    exact: bool = True


async def fetch(
    paths: Sequence[Path], asked: Question, credentials: Credentials, meter: Meter, within_s: float
) -> bytearray:
    """What another worker offers. Raises PacketError when it does not come in time, is more, or will not come."""
    why = "no answer" if paths else "nobody can dial it"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            for path in cycle(paths):
                try:
                    body = await _ask(path, asked, credentials, meter, alone=len(paths) == 1)
                except grpc.aio.AioRpcError as error:
                    why = str(error.details())
                    if error.code() is REFUSED:
                        break
                except TimeoutError:
                    continue  # it is not there
                else:
                    if len(body) == asked.size or not asked.exact:
                        return body
                    why = f"{len(body)} bytes of {asked.size}"
                await asyncio.sleep(RETRY_S)
    raise PacketError(f"{asked.giver} did not give its {asked.name} ({why})")


async def _ask(path: Path, asked: Question, credentials: Credentials, meter: Meter, *, alone: bool) -> bytearray:
    """Raises TimeoutError where nobody is there, and another path is to be tried."""
    body = bytearray()
    async with path.open() as channel:
        if not alone:
            async with asyncio.timeout(path.within_s):
                await channel.channel_ready()
        ask: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(f"/roadtrain.Peers/{METHOD}")
        request = pb.Transfer(peer=asked.me, name=asked.name).SerializeToString()
        async for chunk in ask(request, metadata=credentials.metadata, wait_for_ready=True):
            meter.received += carried(len(chunk))
            body += chunk
            if len(body) > asked.size:
                raise PacketError(f"{asked.giver} gives more than the {asked.size} bytes of its {asked.name}")
    return body
