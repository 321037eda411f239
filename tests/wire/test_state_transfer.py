"""A whole state crosses from one process to another, or is refused."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import grpc
import pytest

from roadtrain.errors import PacketError
from roadtrain.plan import Link
from roadtrain.wire import state_transfer
from roadtrain.wire.carrier import GrpcCarrier
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.limits import Limits
from roadtrain.wire.meter import Meter
from roadtrain.wire.state_transfer import METHOD, Path, Question, fetch
from roadtrain.wire.transport import open_channel

OPEN = Credentials("token", secure=False)
TLS = Credentials("token", secure=True)
LIMIT = 1 << 20
PATIENCE_S = 60.0
"""Only a test that fails waits so long."""
SHORT_S = 0.2
BODY = bytes(range(256)) * 5000
T = TypeVar("T")


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run a test's coroutine; a test that hangs fails."""

    async def within() -> T:
        async with asyncio.timeout(PATIENCE_S):
            return await work()

    return asyncio.run(within())


@contextlib.asynccontextmanager
async def giver(credentials: Credentials = OPEN, link: Link | None = None) -> AsyncIterator[tuple[GrpcCarrier, str]]:
    """A carrier that has things to offer, and its address."""
    carrier = GrpcCarrier(credentials, link, Limits(message=LIMIT))
    port = await carrier.listen("127.0.0.1")
    try:
        yield carrier, f"127.0.0.1:{port}"
    finally:
        await carrier.close()


async def ask(
    address: str, size: int, credentials: Credentials = OPEN, within_s: float = PATIENCE_S, name: str = "trained"
) -> bytes:
    return bytes(await fetched(address, Question("a", name, "b", size), within_s, credentials))


async def fetched(
    address: str, asked: Question, within_s: float = PATIENCE_S, credentials: Credentials = OPEN
) -> bytearray:
    path = Path(lambda: open_channel(address, credentials), SHORT_S)
    return await fetch([path], asked, credentials, Meter(), within_s)


def views(*parts: bytes) -> list[memoryview]:
    return [memoryview(part) for part in parts]


@pytest.mark.parametrize("credentials", [OPEN, TLS], ids=["open", "tls"])
def test_a_whole_state_crosses(credentials: Credentials) -> None:
    """In chunks: its parts one after the other."""

    async def work() -> None:
        async with giver(credentials) as (carrier, address):
            carrier.offers.offer("trained", views(BODY, b"", b"x", BODY[:1000]))
            carrier.offers.offer("frozen", views(b"other"))
            assert await ask(address, len(BODY) + 1001, credentials) == BODY + b"x" + BODY[:1000]
            assert await ask(address, 5, credentials, name="frozen") == b"other"
            assert carrier.offers.taken == {"trained": {"b"}, "frozen": {"b"}}
            assert carrier.meter.sent > len(BODY), "it counts"

    run(work)


def test_several_may_take_it_at_once() -> None:
    async def work() -> None:
        async with giver() as (carrier, address):
            carrier.offers.offer("trained", views(BODY))
            found = [fetched(address, Question("a", "trained", name, len(BODY))) for name in "bcd"]
            assert all(bytes(body) == BODY for body in await asyncio.gather(*found))
            assert carrier.offers.taken["trained"] == {"b", "c", "d"}

    run(work)


def test_nothing_of_it_is_given_without_the_token() -> None:
    async def work() -> None:
        async with giver() as (carrier, address):
            carrier.offers.offer("trained", views(BODY))
            with pytest.raises(PacketError, match="wrong token"):
                await ask(address, len(BODY), Credentials("guess", secure=False), SHORT_S)
            assert carrier.offers.taken["trained"] == set()
            assert carrier.meter.sent == 0

    run(work)


def test_too_many_bytes_are_refused_at_once() -> None:
    """Nobody is made to hold more than there may be."""

    async def work() -> None:
        async with giver() as (carrier, address):
            carrier.offers.offer("trained", views(BODY))
            with pytest.raises(PacketError, match=f"more than the {len(BODY) - 1} bytes"):
                await ask(address, len(BODY) - 1)

    run(work)


def test_too_few_bytes_are_not_a_state() -> None:
    async def work() -> None:
        async with giver() as (carrier, address):
            carrier.offers.offer("trained", views(b"half"))
            with pytest.raises(PacketError, match="4 bytes of 8"):
                await ask(address, 8, within_s=SHORT_S)

    run(work)


def test_what_comes_late_is_waited_for() -> None:
    async def work() -> None:
        async with giver() as (carrier, address):
            asked = asyncio.create_task(ask(address, len(BODY)))
            other = asyncio.create_task(ask(address, 3, name="frozen"))
            await asyncio.sleep(0.1)
            carrier.offers.offer("frozen", views(b"yes"))
            assert await other == b"yes"
            assert not asked.done()
            carrier.offers.offer("trained", views(BODY))
            assert await asked == BODY

    run(work)


def test_a_giver_that_comes_late_is_waited_for_too() -> None:
    async def work() -> None:
        async with giver() as (_, address):
            pass
        asked = asyncio.create_task(ask(address, 4))
        await asyncio.sleep(0.1)
        late = GrpcCarrier(OPEN, None, Limits(message=LIMIT))
        late.offers.offer("trained", views(b"body"))
        server = grpc.aio.server()
        handler = grpc.unary_stream_rpc_method_handler(late.offers.serve)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("roadtrain.Peers", {METHOD: handler})])
        server.add_insecure_port(address)
        await server.start()
        assert await asked == b"body"
        await server.stop(0)
        await late.close()

    run(work)


def test_who_never_answers_is_one_line() -> None:
    async def work() -> None:
        async with giver() as (_, address):
            pass
        with pytest.raises(PacketError, match="did not give its trained") as refused:
            await ask(address, 4, within_s=SHORT_S)
        assert "\n" not in refused.value.message

    run(work)


def test_what_was_withdrawn_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_transfer, "OFFER_S", 0.05)

    async def work() -> None:
        async with giver() as (carrier, address):
            carrier.offers.offer("trained", views(BODY))
            assert await ask(address, len(BODY)) == BODY
            carrier.offers.withdraw("trained")
            carrier.offers.withdraw("never offered")
            assert carrier.offers.taken["trained"] == {"b"}, "who has taken it is still known"
            with pytest.raises(PacketError, match="nothing of that name"):
                await ask(address, len(BODY), within_s=2 * SHORT_S)

    run(work)


def test_a_request_that_is_none_is_refused() -> None:
    async def work() -> grpc.StatusCode:
        async with giver() as (_, address), open_channel(address, OPEN) as channel:
            call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(f"/roadtrain.Peers/{METHOD}")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                async for _ in call(b"\xff\xff\xff", metadata=OPEN.metadata):
                    pass
            return refused.value.code()

    assert run(work) is grpc.StatusCode.INVALID_ARGUMENT


def test_what_is_asked_for_and_not_there_can_be_seen():
    async def work() -> tuple[frozenset[str], frozenset[str], bytes]:
        async with giver() as (carrier, address):
            asking = asyncio.create_task(ask(address, 3, name="enter w1"))
            while not carrier.offers.awaited:
                await asyncio.sleep(0.01)
            before = carrier.offers.awaited
            carrier.offers.offer("enter w1", views(b"abc"))
            return before, carrier.offers.awaited, await asking

    before, _, body = run(work)
    assert (before, body) == ({"enter w1"}, b"abc")


def test_of_a_state_whose_size_is_not_known_as_much_is_taken_as_there_may_be():
    async def work() -> bytes:
        async with giver() as (carrier, address):
            carrier.offers.offer("state", views(b"abc", b"de"))
            body = await fetched(address, Question("a", "state", "b", 100, exact=False))
            with pytest.raises(PacketError, match="more than the 4 bytes"):
                await fetched(address, Question("a", "state", "b", 4, exact=False))
            return bytes(body)

    assert run(work) == b"abcde"


@pytest.mark.parametrize("before", [True, False])
def test_what_is_refused_is_not_waited_for(before: bool):
    async def work() -> None:
        async with giver() as (carrier, address):
            if before:
                carrier.offers.refuse("enter ")
            asking = asyncio.create_task(ask(address, 3, name="enter w1"))
            while not (before or carrier.offers.awaited):
                await asyncio.sleep(0.01)
            if not before:
                carrier.offers.refuse("enter ")
            with pytest.raises(PacketError, match="it gives none any more"):
                await asking

    run(work)
