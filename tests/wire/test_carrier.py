"""Real carriers on loopback, in one asyncio loop."""

from __future__ import annotations

import asyncio

import grpc
import pytest
import xxhash
from carriers import LIMIT, ONE, OPEN, TLS, call, carrier, letters, pair, run, until
from letters import letter, plain, push, raw

from roadtrain.message import Collect, Envelope, Pull, Push, Replicated, Snapshot, Tick
from roadtrain.plan import Link
from roadtrain.wire import roadtrain_pb2 as pb
from roadtrain.wire.carrier import GrpcCarrier
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.hello import Hello
from roadtrain.wire.limits import Limits
from roadtrain.wire.send_queue import BREAKS_MAX

C = Hello("c", 1).encode()
"""What a third peer, which is spoken by hand, begins with."""


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
            for message in (push(1), push(1), Pull(2, 1), Pull(2, 1), push(2), Pull(1, 1)):
                a.send(letter(message))
            sent = [e.message for e in await letters(b, 4)]
            assert sorted(str(plain(m)) for m in sent) == sorted(
                str(plain(m)) for m in (push(1), Pull(2, 1), push(2), Pull(1, 1))
            )
            # What has arrived may be said again.
            await until(lambda: a.idle)
            a.send(letter(Pull(2, 1)))
            assert [e.message for e in await letters(b, 1)] == [Pull(2, 1)]

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
                a.send(letter(Pull(1, clock)))
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


def test_what_a_process_can_send_is_seen_in_what_it_sends() -> None:
    async def work() -> None:
        async with pair(link=Link(1e6, 0.0)) as (a, b):
            for clock in range(1, 6):
                a.send(letter(push(clock, values=100_000)))
            await letters(b, 5)
            assert a.uplink.rate is not None
            assert a.uplink.rate < 1.3e6, "that is the line's"
            assert b.uplink.rate is None, "it has sent nothing"

    run(work)


# ------------------------------------------------------------------------------------------------------- inbox


def test_an_inbox_holds_local_events_and_tells_the_time() -> None:
    async def work() -> None:
        carrier = GrpcCarrier(OPEN, None, Limits(message=LIMIT))
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
            a.connect({"b": "127.0.0.1:1"}, ONE)  # it is one of us again
            assert [e.message for e in await letters(a, 1)] == [Pull(0, 4)]

    run(work)


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_a_peer_that_joins_later_gets_what_waited_for_it(names: str) -> None:
    """A process listens before it knows who it is."""

    async def work() -> None:
        one, other = names
        a, _ = await carrier(one)
        b = GrpcCarrier(OPEN, None, Limits(message=LIMIT))
        port = await b.listen("127.0.0.1")
        a.send(letter(Pull(0, 1), one, other))  # to nobody yet
        a.connect({other: f"127.0.0.1:{port}"}, ONE)
        a.send(letter(Pull(0, 2), one, other))
        await asyncio.sleep(0.05)
        assert not a.idle
        b.join(other, 1)
        b.connect({one: "127.0.0.1:1"}, ONE)
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
        b, address = await carrier("b")
        b.connect({"c": "127.0.0.1:1"}, ONE)
        stranger = Credentials("guess", secure=False)
        sent = [C, *raw(letter(Pull(0, 1), "c"))]
        # Without a word more: what is still being written when a call ends hides from gRPC's client how it ended.
        assert await call(address, stranger, [], token=token) is grpc.StatusCode.UNAUTHENTICATED
        assert await b.receive(b.now() - 1) is None
        assert b.meter.received == 0
        calling = asyncio.create_task(call(address, OPEN, sent))
        assert [e.message for e in await letters(b, 1)] == [Pull(0, 1)]
        calling.cancel()
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
        b, address = await carrier("b", server)
        b.connect({"c": "127.0.0.1:1"}, ONE)
        assert await call(address, client, [C, *raw(letter(Pull(0, 1), "c"))]) is grpc.StatusCode.UNAVAILABLE
        assert await b.receive(b.now() - 1) is None
        assert b.meter.received == 0
        await b.close()

    run(work)


def test_a_certificate_alone_is_not_enough() -> None:
    async def work() -> None:
        b, address = await carrier("b", TLS)
        code = await call(address, TLS, [], token=False)
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
        [C, corrupt(raw(letter(push(), "c"), size=1 << 16)[0])],
        [C, *raw(letter(push(values=1000), "c"), size=1 << 16)],
        [C, *raw(letter(Pull(0, 1), "b"))],
        [C, pb.Frame(chunk=b"x").SerializeToString()],
        [C, pb.Frame().SerializeToString()],
        [C, b"\xff" * 40],
        [C, pb.Frame(header=NO_PACKETS).SerializeToString()],
        [C, pb.Frame(taken=1).SerializeToString()],
        [pb.Frame(taken=1).SerializeToString()],
        [b"\xff" * 40],
    ],
    ids=[
        "checksum",
        "too long",
        "foreign",
        "no header",
        "empty",
        "garbage",
        "no packets",
        "never sent",
        "no hello",
        "noise",
    ],
)
def test_wrong_bytes_end_their_stream_and_no_other(sent: list[bytes]) -> None:
    async def work() -> None:
        async with pair(limit=1000) as (a, _):
            third, address = await carrier("z", limit=1000)
            third.connect({"a": "127.0.0.1:1", "c": "127.0.0.1:1"}, ONE)
            a.connect({"z": address}, ONE)
            a.send(letter(Pull(0, 1), to="z"))
            await letters(third, 1)
            assert await call(address, OPEN, sent) is grpc.StatusCode.INVALID_ARGUMENT
            assert third.meter.refused == (sent[0] == C)
            a.send(letter(Pull(0, 2), to="z"))
            assert [e.message for e in await letters(third, 1)] == [Pull(0, 2)]
            await third.close()

    run(work)


def test_an_honest_peer_comes_back_after_its_stream_was_ended() -> None:
    """What ends one stream after the other is given up, and what came after it is sent."""

    async def work() -> None:
        async with pair(limit=1000) as (a, b):
            a.send(letter(push(1, values=1000)))  # over the limit: refused
            a.send(letter(push(2, values=100)))
            assert [plain(e.message) for e in await letters(b, 1)] == [plain(push(2, values=100))]
            assert b.meter.refused == BREAKS_MAX
            await until(lambda: a.idle)

    run(work)
