"""Real carriers on loopback, in one asyncio loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import grpc
import pytest
import xxhash
from letters import letter, plain, push, raw

from roadtrain.message import Collect, Envelope, Pull, Push, Replicated, Snapshot, Tick
from roadtrain.plan import Link
from roadtrain.wire import Credentials, GrpcCarrier
from roadtrain.wire import roadtrain_pb2 as pb
from roadtrain.wire.credentials import NAME

OPEN = Credentials("token", secure=False)
TLS = Credentials("token", secure=True)
LIMIT = 32 << 20
PATIENCE_S = 60.0
"""Only a test that fails waits so long."""
T = TypeVar("T")


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run a test's coroutine; a test that hangs fails."""

    async def within() -> T:
        async with asyncio.timeout(PATIENCE_S):
            return await work()

    return asyncio.run(within())


@contextlib.asynccontextmanager
async def pair(
    credentials: Credentials = OPEN, link: Link | None = None, limit: int = LIMIT
) -> AsyncIterator[tuple[GrpcCarrier, GrpcCarrier]]:
    """Two carriers, a and b, that know each other."""
    a, b = (GrpcCarrier(name, credentials, link, limit) for name in "ab")
    ports = {"a": await a.listen("127.0.0.1"), "b": await b.listen("127.0.0.1")}
    a.connect({"b": f"127.0.0.1:{ports['b']}"})
    b.connect({"a": f"127.0.0.1:{ports['a']}"})
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


async def call(port: int, credentials: Credentials, sent: list[bytes], *, token: bool = True) -> grpc.StatusCode:
    """Talk to a server by hand; how the stream ended."""
    options = [("grpc.ssl_target_name_override", NAME), ("grpc.default_authority", NAME)]
    secure, address = credentials.channel(), f"127.0.0.1:{port}"
    channel = (
        grpc.aio.insecure_channel(address, options=options)
        if secure is None
        else grpc.aio.secure_channel(address, secure, options=options)
    )

    async def stream() -> AsyncIterator[bytes]:
        for frame in sent:
            yield frame

    async with channel:
        send: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary("/roadtrain.Peers/Send")
        answer = send(stream(), metadata=credentials.metadata if token else ())
        with contextlib.suppress(grpc.RpcError):
            await answer
        return await answer.code()


# ----------------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize("credentials", [OPEN, TLS], ids=["open", "tls"])
def test_messages_cross_in_both_directions(credentials: Credentials) -> None:
    async def work() -> None:
        async with pair(credentials) as (a, b):
            big = letter(push(clock=1, values=2_000_000))
            small = [letter(Pull(fragment, 1)) for fragment in range(50)]
            back = letter(push(clock=2, values=300_000), source="b", to="a")
            for envelope in (*small[:25], big, *small[25:]):
                a.send(envelope)
            b.send(back)
            received = await letters(b, 51)
            assert sorted(str(plain(e))[:200] for e in received) == sorted(str(plain(e))[:200] for e in (big, *small))
            (arrived,) = [e for e in received if isinstance(e.message, Push)]
            assert plain(arrived) == plain(big)
            assert [e for e in received if isinstance(e.message, Pull)] == small
            assert [plain(e) for e in await letters(a, 1)] == [plain(back)]

    run(work)


def test_control_overtakes_payload() -> None:
    async def work() -> None:
        async with pair(link=Link(20e6, 0.0)) as (a, b):
            a.send(letter(push(values=500_000)))  # 2 MB: a tenth of a second
            await until(lambda: a.meter.sent > 0)
            for clock in range(20):
                a.send(letter(Replicated(0, clock)))
            received = await letters(b, 21)
            assert [type(e.message) for e in received] == [Replicated] * 20 + [Push]

    run(work)


def test_control_overtakes_payload_on_a_link_of_any_rate() -> None:
    async def work() -> None:
        async with pair() as (a, b):
            a.send(letter(push(values=5_000_000)))  # 20 MB
            while not a.meter.sent:
                await asyncio.sleep(0)
            a.send(letter(Replicated(0, 1)))
            assert [type(e.message) for e in await letters(b, 2)] == [Replicated, Push]

    run(work)


def test_a_message_that_is_still_waiting_is_not_sent_twice() -> None:
    async def work() -> None:
        async with pair() as (a, b):
            for message in (push(1), push(1), Pull(0, 1), Pull(0, 1), push(2), Pull(1, 1)):
                a.send(letter(message))
            sent = [e.message for e in await letters(b, 4)]
            assert sorted(str(plain(m)) for m in sent) == sorted(
                str(plain(m)) for m in (push(1), Pull(0, 1), push(2), Pull(1, 1))
            )
            # What has left may be sent again: it may have been lost.
            await until(lambda: a.idle)
            a.send(letter(Pull(0, 1)))
            assert [e.message for e in await letters(b, 1)] == [Pull(0, 1)]

    run(work)


def test_messages_that_differ_in_anything_are_all_sent() -> None:
    async def work() -> None:
        async with pair() as (a, b):
            wanted = [
                letter(Pull(0, 1)),
                letter(Pull(0, 2)),
                letter(Pull(1, 1)),
                Envelope("a", "b", 1, 2, Pull(0, 1)),
                letter(Replicated(0, 1)),
                letter(Snapshot(0, 0, 1, (), ())),
                letter(Snapshot(0, 0, 2, (), ())),
            ]
            for envelope in wanted:
                a.send(envelope)
            received = await letters(b, len(wanted))
            assert {str(plain(e)) for e in received} == {str(plain(e)) for e in wanted}

    run(work)


def test_both_sides_count_the_same_bytes() -> None:
    async def work() -> None:
        async with pair() as (a, b):
            for clock in range(1, 6):
                a.send(letter(push(clock, values=70_000 * clock)))
                a.send(letter(Pull(0, clock)))
            await letters(b, 10)
            await until(lambda: a.idle)
            payload = 4 * 70_000 * (1 + 2 + 3 + 4 + 5)
            assert a.meter.sent == b.meter.received
            assert payload < b.meter.received < 1.01 * payload
            assert (a.meter.received, b.meter.sent, b.meter.refused) == (0, 0, 0)

    run(work)


def test_a_message_is_not_there_before_its_delay_is_over() -> None:
    async def work() -> None:
        async with pair(link=Link(None, 0.05)) as (a, b):
            sent = a.now()
            a.send(letter(Pull(0, 1)))
            await letters(b, 1)
            assert b.now() - sent >= 0.05

    run(work)


def test_a_slow_link_carries_no_more_than_its_rate() -> None:
    async def work() -> None:
        async with pair(link=Link(2e6, 0.0)) as (a, b):
            began = a.now()
            for clock in range(1, 5):
                a.send(letter(push(clock, values=25_000)))
            await letters(b, 4)
            assert b.meter.received / (b.now() - began) < 1.3 * 2e6

    run(work)


# ------------------------------------------------------------------------------------------------------- inbox


def test_an_inbox_holds_local_events_and_tells_the_time() -> None:
    async def work() -> None:
        carrier = GrpcCarrier("a", OPEN, None, LIMIT)
        assert await carrier.receive(carrier.now() - 1) is None
        assert await carrier.receive(carrier.now() + 0.01) is None
        carrier.deliver(Tick())
        carrier.deliver(Collect())
        assert await carrier.receive(carrier.now() - 1) == Tick(), "what is there comes before the time"
        assert await carrier.receive(None) == Collect()
        asyncio.get_running_loop().call_soon(carrier.deliver, Tick())
        assert await carrier.receive(None) == Tick()
        await carrier.close()

    run(work)


def test_letters_to_strangers_and_to_the_lost_are_dropped() -> None:
    async def work() -> None:
        async with pair() as (a, b):
            a.send(letter(Pull(0, 1), to="nobody"))
            a.send(letter(Pull(0, 2)))
            assert [e.message for e in await letters(b, 1)] == [Pull(0, 2)]
            await a.disconnect("b")
            await a.disconnect("b")
            a.send(letter(Pull(0, 3)))
            assert a.idle
            b.send(letter(Pull(0, 4), source="b", to="a"))
            assert [e.message for e in await letters(a, 1)] == [Pull(0, 4)]

    run(work)


def test_a_peer_that_listens_later_gets_what_waited_for_it() -> None:
    async def work() -> None:
        a, b = (GrpcCarrier(name, OPEN, None, LIMIT) for name in "ab")
        await a.listen("127.0.0.1")
        port = await b.listen("127.0.0.1")
        a.send(letter(Pull(0, 1)))  # to nobody yet
        a.connect({"b": f"127.0.0.1:{port}"})
        a.send(letter(Pull(0, 2)))
        assert [e.message for e in await letters(b, 1)] == [Pull(0, 2)]
        await a.close()
        await b.close()

    run(work)


# ------------------------------------------------------------------------------------------------------ refusal


@pytest.mark.parametrize("arrives", [True, False], ids=["while it sends", "before it has met its peer"])
def test_a_carrier_that_is_closed_leaves_no_task_behind(arrives: bool) -> None:
    async def work() -> None:
        mine = asyncio.all_tasks()
        async with pair() as (a, b):
            a.send(letter(push(values=5_000_000)))
            if arrives:
                await letters(b, 1)
        # The task of a call that gRPC's server has cancelled ends a turn or two after the server: what stays, fails.
        await until(lambda: asyncio.all_tasks() == mine)

    run(work)


@pytest.mark.parametrize("token", [True, False], ids=["wrong", "none"])
def test_who_has_not_the_token_is_refused(token: bool) -> None:
    async def work() -> None:
        b = GrpcCarrier("b", OPEN, None, LIMIT)
        port = await b.listen("127.0.0.1")
        stranger = Credentials("guess", secure=False)
        assert await call(port, stranger, raw(letter(Pull(0, 1))), token=token) is grpc.StatusCode.UNAUTHENTICATED
        assert await b.receive(b.now() - 1) is None
        assert b.meter.received == 0
        assert await call(port, OPEN, raw(letter(Pull(0, 2)))) is grpc.StatusCode.OK
        assert [e.message for e in await letters(b, 1)] == [Pull(0, 2)]
        await b.close()

    run(work)


@pytest.mark.parametrize(
    ("server", "client"),
    [
        (TLS, Credentials("guess", secure=True)),
        (Credentials("guess", secure=True), TLS),
        (TLS, OPEN),
        (OPEN, TLS),
    ],
    ids=["stranger calls", "stranger answers", "call in the clear", "answer in the clear"],
)
def test_without_the_key_no_stream_is_opened(server: Credentials, client: Credentials) -> None:
    async def work() -> None:
        b = GrpcCarrier("b", server, None, LIMIT)
        port = await b.listen("127.0.0.1")
        assert await call(port, client, raw(letter(Pull(0, 1)))) is grpc.StatusCode.UNAVAILABLE
        assert await b.receive(b.now() - 1) is None
        assert b.meter.received == 0
        await b.close()

    run(work)


def test_a_certificate_alone_is_not_enough() -> None:
    async def work() -> None:
        b = GrpcCarrier("b", TLS, None, LIMIT)
        port = await b.listen("127.0.0.1")
        code = await call(port, TLS, raw(letter(Pull(0, 1))), token=False)
        assert code is grpc.StatusCode.UNAUTHENTICATED
        await b.close()

    run(work)


NO_PACKETS = pb.Header(snapshot=pb.Snapshot(names=["theta"]), checksum=xxhash.xxh3_64_intdigest(b""))


def corrupt(frame: bytes) -> bytes:
    made = pb.Frame.FromString(frame)
    made.chunk = bytes([made.chunk[0] ^ 1]) + made.chunk[1:]
    return made.SerializeToString()


@pytest.mark.parametrize(
    "sent",
    [
        [corrupt(raw(letter(push()), size=1 << 16)[0])],
        raw(letter(push(values=1000))),
        [pb.Frame(id=1, chunk=b"x").SerializeToString()],
        [pb.Frame().SerializeToString()],
        [b"\xff" * 40],
        [pb.Frame(id=1, header=NO_PACKETS).SerializeToString()],
    ],
    ids=["checksum", "too long", "no header", "empty", "garbage", "no packets"],
)
def test_wrong_bytes_end_their_stream_and_no_other(sent: list[bytes]) -> None:
    async def work() -> None:
        async with pair(limit=1000) as (a, b):
            a.send(letter(Pull(0, 1)))
            await letters(b, 1)
            address = a._channels["b"]._address
            code = await call(int(address.rsplit(":", 1)[1]), OPEN, sent)
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert b.meter.refused == 1
            a.send(letter(Pull(0, 2)))
            assert [e.message for e in await letters(b, 1)] == [Pull(0, 2)]

    run(work)


def test_an_honest_peer_comes_back_after_its_stream_was_ended() -> None:
    async def work() -> None:
        async with pair(limit=1000) as (a, b):
            a.send(letter(push(1, values=1000)))  # over the limit: refused, and lost
            await until(lambda: b.meter.refused == 1)
            # It is lost like anything on a broken line, and so may be what follows: it is sent until it arrives.
            received = asyncio.create_task(letters(b, 1))
            while not received.done():
                a.send(letter(push(2, values=100)))
                await asyncio.wait([received], timeout=0.1)
            assert plain(received.result()[0].message) == plain(push(2, values=100))

    run(work)
