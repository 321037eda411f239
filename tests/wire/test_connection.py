"""Who dials, what is kept when two streams come up, and what happens when one breaks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from carriers import LIMIT, ONE, OPEN, TLS, carrier, letters, run, until
from letters import letter, plain, push

from roadtrain.errors import PeerError
from roadtrain.message import Pull, Stable
from roadtrain.wire import connection, hello, transport
from roadtrain.wire import roadtrain_pb2 as pb
from roadtrain.wire.carrier import GrpcCarrier
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.hello import OtherVersion
from roadtrain.wire.limits import Limits
from roadtrain.wire.stream import Stream

NOWHERE = "127.0.0.1:1"


class Proxy:
    """Forwards connections to an address, until it is told to swallow what it gets, or to hang up."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self.target = host, int(port)
        self.connections = 0
        self.swallows = False
        self.around = ""
        """Where the one that dials can itself be dialled."""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return "127.0.0.1:" + str(self._server.sockets[0].getsockname()[1])

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        to, out = await asyncio.open_connection(*self.target)
        self._writers += [writer, out]
        self.swallows = False
        for source, sink in ((reader, out), (to, writer)):
            self._tasks.add(asyncio.create_task(self._forward(source, sink, self.connections)))

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, number: int) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                if not (self.swallows or number < self.connections):
                    sink.write(data)

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def stop(self) -> None:
        self.hang_up()
        for task in self._tasks:
            task.cancel()
        if self._server is not None:
            self._server.close()


@contextlib.asynccontextmanager
async def through_a_proxy(credentials: Credentials = OPEN) -> AsyncIterator[tuple[GrpcCarrier, GrpcCarrier, Proxy]]:
    """a, which dials b through a proxy, and b, which cannot dial."""
    (a, to_a), (b, to_b) = [await carrier(name, credentials) for name in "ab"]
    proxy = Proxy(to_b)
    proxy.around = to_a
    a.connect({"b": await proxy.start()}, ONE)
    b.connect({"a": NOWHERE}, ONE)
    try:
        yield a, b, proxy
    finally:
        await a.close()
        await b.close()
        await proxy.stop()


def stream(of: GrpcCarrier, to: str) -> Stream | None:
    return of._connections[to][0]._stream


async def up(of: GrpcCarrier, to: str) -> Stream:
    await until(lambda: stream(of, to) is not None)
    found = stream(of, to)
    assert found is not None
    return found


# ---------------------------------------------------------------------------------------------------------- dialling


@pytest.mark.parametrize("dialled", ["a", "b"])
@pytest.mark.parametrize("credentials", [OPEN, TLS], ids=["open", "tls"])
def test_one_side_that_can_be_dialled_is_enough(dialled: str, credentials: Credentials) -> None:
    async def work() -> None:
        (a, to_a), (b, to_b) = [await carrier(name, credentials) for name in "ab"]
        a.connect({"b": to_b if dialled == "b" else NOWHERE}, ONE)
        b.connect({"a": to_a if dialled == "a" else NOWHERE}, ONE)
        a.send(letter(push(1)))
        b.send(letter(push(2), "b", "a"))
        assert plain((await letters(b, 1))[0].message) == plain(push(1))
        assert plain((await letters(a, 1))[0].message) == plain(push(2))
        await a.close()
        await b.close()

    run(work)


def test_the_smaller_peer_dials_and_there_is_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "DIAL_AFTER_S", 3600.0)

    async def work() -> None:
        (a, to_a), (b, to_b) = [await carrier(name) for name in "ab"]
        proxies = Proxy(to_a), Proxy(to_b)
        at_a, at_b = [await proxy.start() for proxy in proxies]
        b.connect({"a": at_a}, ONE)
        a.connect({"b": at_b}, ONE)
        b.send(letter(Pull(0, 1), "b", "a"))
        await letters(a, 1)
        assert [proxy.connections for proxy in proxies] == [0, 1]
        for each in (a, b, *proxies):
            await (each.close() if isinstance(each, GrpcCarrier) else each.stop())

    run(work)


def test_when_both_dial_at_once_both_keep_the_same_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "DIAL_AFTER_S", 0.0)

    async def work() -> None:
        for _ in range(10):
            (a, to_a), (b, to_b) = [await carrier(name) for name in "ab"]
            a.connect({"b": to_b}, ONE)
            b.connect({"a": to_a}, ONE)
            a.send(letter(push(1, values=100_000)))
            b.send(letter(push(2, values=100_000), "b", "a"))
            (at_b,), (at_a,) = await letters(b, 1), await letters(a, 1)
            assert (plain(at_b.message), plain(at_a.message)) == (
                plain(push(1, values=100_000)),
                plain(push(2, values=100_000)),
            )
            await until(lambda a=a, b=b: a.idle and b.idle)  # on streams that do not meet nothing would be acknowledged
            await a.close()
            await b.close()

    run(work)


# ------------------------------------------------------------------------------------------------------------ breaking


def test_what_had_not_arrived_is_sent_on_the_next_stream() -> None:
    async def work() -> None:
        async with through_a_proxy() as (a, b, proxy):
            a.send(letter(Pull(0, 1)))
            await letters(b, 1)
            await until(lambda: a.idle)
            proxy.swallows = True
            a.send(letter(push(1, values=50_000)))
            a.send(letter(Stable(0, 1)))
            b.send(letter(Pull(0, 2), "b", "a"))
            await asyncio.sleep(0.05)
            proxy.hang_up()
            assert {type(e.message) for e in await letters(b, 2)} == {type(push()), Stable}
            assert [e.message for e in await letters(a, 1)] == [Pull(0, 2)]
            await until(lambda: a.idle and b.idle)
            assert proxy.connections == 2

    run(work)


def test_a_connection_that_is_dead_without_a_word_is_noticed_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a router that has forgotten it leaves it: no packet gets through, and none comes back."""
    monkeypatch.setattr(transport, "KEEPALIVE_S", 0.4)
    monkeypatch.setattr(transport, "KEEPALIVE_WAIT_S", 0.4)

    async def work() -> None:
        async with through_a_proxy() as (a, b, proxy):
            await up(b, "a")
            proxy.swallows = True
            b.send(letter(Pull(0, 1), "b", "a"))
            assert [e.message for e in await letters(a, 1)] == [Pull(0, 1)]
            assert proxy.connections == 2

    run(work)


def test_a_connection_whose_end_only_the_other_has_seen_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """b dials although a, which dials first, still believes in its stream."""
    monkeypatch.setattr(connection, "DIAL_AFTER_S", 0.0)
    monkeypatch.setattr(connection, "RACE_S", 0.05)

    async def work() -> None:
        async with through_a_proxy() as (a, b, proxy):
            before = await up(a, "b")
            proxy.swallows = True
            b.connect({"a": proxy.around}, ONE)
            old = await up(b, "a")
            old.end()
            b.send(letter(Pull(0, 1), "b", "a"))
            assert [e.message for e in await letters(a, 1)] == [Pull(0, 1)]
            assert before.ended.is_set()

    run(work)


def test_a_peer_that_is_silent_keeps_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life are asked for often, and nobody is told to go away for it."""
    monkeypatch.setattr(transport, "KEEPALIVE_S", 0.05)

    async def work() -> None:
        async with through_a_proxy() as (a, _, proxy):
            first = await up(a, "b")
            await asyncio.sleep(1.0)
            assert stream(a, "b") is first
            assert proxy.connections == 1

    run(work)


# -------------------------------------------------------------------------------------------------------- other processes


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_a_peer_that_comes_back_takes_its_place(names: str) -> None:
    """A new process of the same name at another address, whoever hears of it first."""

    async def work() -> None:
        one, other = names
        (a, to_a), (old, to_old) = [await carrier(name) for name in names]
        a.connect({other: to_old}, ONE)
        old.connect({one: to_a}, ONE)
        before = await up(a, other)
        new, to_new = await carrier(other, incarnation=2)
        new.connect({one: to_a}, ONE)  # a does not know yet
        a.send(letter(Pull(0, 1), one, other))
        a.connect({other: to_new}, {other: 2})
        a.send(letter(Pull(0, 2), one, other))
        assert (await letters(new, 1))[-1].message == Pull(0, 2)
        assert before.ended.is_set()
        now = await up(a, other)
        assert now.peer.incarnation == 2
        old.send(letter(Pull(0, 3), other, one))
        new.send(letter(Pull(0, 4), other, one))
        assert [e.message for e in await letters(a, 1)] == [Pull(0, 4)]
        for each in (a, old, new):
            await each.close()

    run(work)


def test_a_later_process_that_dials_first_replaces_the_one_before() -> None:
    async def work() -> None:
        (b, to_b), (old, _) = await carrier("b"), await carrier("a")
        b.connect({"a": NOWHERE}, ONE)
        old.connect({"b": to_b}, ONE)
        before = await up(b, "a")
        new, to_new = await carrier("a", incarnation=2)
        new.connect({"b": to_b}, ONE)
        new.send(letter(Pull(0, 1)))
        await letters(b, 1)
        now = await up(b, "a")
        assert before.ended.is_set()
        b.connect({"a": to_new}, {"a": 2})  # the view comes after it
        b.send(letter(Pull(0, 2), "b", "a"))
        await letters(new, 1)
        assert stream(b, "a") is now, "it is the right one"
        for each in (b, old, new):
            await each.close()

    run(work)


@pytest.mark.parametrize("dials", ["a", "b"])
def test_another_version_ends_it_with_one_line_at_both_ends(dials: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(hello.Hello):
        def encode(self) -> bytes:
            return pb.Hello(protocol=99, release="9.9", peer=self.peer, incarnation=1).SerializeToString()

    async def work() -> None:
        (a, to_a), (b, to_b) = [await carrier(name) for name in "ab"]
        failed: dict[str, BaseException] = {}
        a.failed = lambda error: failed.update(a=error)
        b.failed = lambda error: failed.update(b=error)
        monkeypatch.setattr("roadtrain.wire.carrier.Hello", Later)
        (a if dials == "a" else b).join(dials, 1)
        monkeypatch.undo()
        a.connect({"b": to_b if dials == "a" else NOWHERE}, ONE)
        b.connect({"a": to_a if dials == "b" else NOWHERE}, ONE)
        await until(lambda: len(failed) == 2)
        for error in failed.values():
            assert isinstance(error, OtherVersion)
            assert "version 99" in error.line()
            assert f"version {hello.PROTOCOL}" in error.line()
            assert "\n" not in error.line()
        await a.close()
        await b.close()

    run(work)


def test_a_token_that_is_not_accepted_is_said_and_not_tried_for_ever() -> None:
    async def work() -> None:
        (a, _), (b, to_b) = await carrier("a", Credentials("guess", secure=False)), await carrier("b")
        failed: list[BaseException] = []
        a.failed = failed.append
        a.connect({"b": to_b}, ONE)
        await until(lambda: bool(failed))
        (error,) = failed
        assert isinstance(error, PeerError)
        assert error.line() == f"b at {to_b} does not accept the token of this run"
        await a.close()
        await b.close()

    run(work)


def test_a_stranger_where_a_peer_was_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its port may have gone to another run: the view will say what has become of it."""
    monkeypatch.setattr(connection, "RETRY_S", 0.01)
    monkeypatch.setattr(connection, "RETRY_MAX_S", 0.1)
    monkeypatch.setattr(connection, "HELLO_S", 1.0)

    async def work() -> None:
        async with through_a_proxy() as (a, b, proxy):
            await up(b, "a")
            await up(a, "b")  # it has met the peer there
            honest = proxy.target
            stranger, address = await carrier("b", Credentials("another", secure=False))
            proxy.target = "127.0.0.1", int(address.rpartition(":")[2])
            proxy.hang_up()
            await until(lambda: proxy.connections >= 2)
            await asyncio.sleep(0.2)  # it is refused, perhaps again on the same connection
            proxy.target = honest
            await stranger.close()
            a.send(letter(Pull(0, 1)))
            await letters(b, 1)

    run(work)


# ----------------------------------------------------------------------------------------------------------- ends


def test_an_error_in_any_task_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with through_a_proxy() as (a, _, _):
            failed: list[BaseException] = []
            a.failed = failed.append
            a.send(letter(Stable(0, 2**64)))  # what no header can hold
            await until(lambda: bool(failed))
            assert isinstance(failed[0], ValueError)

    run(work)


def test_closing_is_quick_when_the_other_end_is_dead(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with through_a_proxy() as (a, b, proxy):
            await up(a, "b")
            proxy.swallows = True
            a.send(letter(push(1, values=1_000_000)))
            await asyncio.sleep(0.1)
            async with asyncio.timeout(1.0):
                await a.close()
                await b.close()

    run(work)
    assert not caplog.records, "nor is anything printed"


def test_readers_wait_for_the_inbox_and_senders_for_them() -> None:
    """What is not looked at does not pile up at the receiver."""

    async def work() -> None:
        a, _ = await carrier("a")
        b = GrpcCarrier(OPEN, None, Limits(message=LIMIT, inbox=1000))
        port = await b.listen("127.0.0.1")
        b.join("b", 1)
        b.connect({"a": NOWHERE}, ONE)
        a.connect({"b": f"127.0.0.1:{port}"}, ONE)
        for clock in range(1, 101):
            a.send(letter(push(clock, values=25_000)))
        await asyncio.sleep(0.3)
        assert b.meter.received < 300_000, "a message, and what its frames overlap"
        assert not a.idle
        wanted = [plain(push(clock, values=25_000)) for clock in range(1, 101)]
        assert [plain(e.message) for e in await letters(b, 100)] == wanted
        await until(lambda: a.idle)
        await a.close()
        await b.close()

    run(work)
