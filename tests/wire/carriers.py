"""Carriers on loopback, for the tests of this folder."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import grpc

from roadtrain.message import Envelope
from roadtrain.plan import Link
from roadtrain.wire.carrier import GrpcCarrier
from roadtrain.wire.connection import METHOD
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.limits import Limits
from roadtrain.wire.transport import open_channel

OPEN = Credentials("token", secure=False)
TLS = Credentials("token", secure=True)
LIMIT = 32 << 20
PATIENCE_S = 20.0
"""Only a test that fails waits so long."""
ONE = dict.fromkeys("abcz", 1)
"""Everybody's incarnation."""
T = TypeVar("T")


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run a test's coroutine; a test that hangs fails."""

    async def within() -> T:
        async with asyncio.timeout(PATIENCE_S):
            return await work()

    return asyncio.run(within())


async def carrier(
    name: str, credentials: Credentials = OPEN, link: Link | None = None, limit: int = LIMIT, incarnation: int = 1
) -> tuple[GrpcCarrier, str]:
    """A carrier that has joined, and its address."""
    made = GrpcCarrier(credentials, link, Limits(message=limit))
    port = await made.listen("127.0.0.1")
    made.join(name, incarnation)
    made.failed = fail
    return made, f"127.0.0.1:{port}"


def fail(error: BaseException) -> None:
    raise AssertionError("the connections broke") from error


@contextlib.asynccontextmanager
async def pair(
    credentials: Credentials = OPEN, link: Link | None = None, limit: int = LIMIT
) -> AsyncIterator[tuple[GrpcCarrier, GrpcCarrier]]:
    """Two carriers, a and b, that know each other."""
    (a, to_a), (b, to_b) = [await carrier(name, credentials, link, limit) for name in "ab"]
    a.connect({"b": to_b}, ONE)
    b.connect({"a": to_a}, ONE)
    try:
        yield a, b
    finally:
        await a.close()
        await b.close()


async def letters(carrier: GrpcCarrier, count: int) -> list[Envelope]:
    received: list[Envelope] = []
    while len(received) < count:
        event = await carrier.receive(None)
        assert isinstance(event, Envelope)
        received.append(event)
    return received


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


async def call(address: str, credentials: Credentials, sent: list[bytes], *, token: bool = True) -> grpc.StatusCode:
    """Talk to a server by hand; how the stream ended."""

    async def stream() -> AsyncIterator[bytes]:
        for frame in sent:
            yield frame
        await asyncio.Event().wait()

    async with open_channel(address, credentials) as channel:
        connect = channel.stream_stream(f"/roadtrain.Peers/{METHOD}")
        answer = connect(stream(), metadata=credentials.metadata if token else ())
        with contextlib.suppress(grpc.RpcError):
            async for _ in answer:
                pass
        return await answer.code()
