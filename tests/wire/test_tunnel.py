"""Workers that cannot dial each other, and the relay between them."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import fastapi
import pytest
from carriers import LIMIT, ONE, OPEN, TLS, carrier, fail, letters, run, until
from letters import letter, plain, push
from relays import free_port, hidden, hidden_pair, listening_sockets, place

from roadtrain.codec import raw_bytes
from roadtrain.errors import PeerError
from roadtrain.message import Pull
from roadtrain.view import Via
from roadtrain.wire import connection, tunnel
from roadtrain.wire.address import parted
from roadtrain.wire.carrier import GrpcCarrier
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.limits import Limits
from roadtrain.wire.relay import Relay
from roadtrain.wire.state_transfer import Giver
from roadtrain.wire.tunnel import LEFT_S, _private_folder  # pyright: ignore[reportPrivateUsage]

LETTER = b"not for the relay"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (connection, tunnel):
        monkeypatch.setattr(module, "RETRY_S", 0.02)
        monkeypatch.setattr(module, "RETRY_MAX_S", 0.2)


async def seen(name: str, relay: Relay) -> tuple[GrpcCarrier, str]:
    """A carrier that can be dialled, and its address."""
    made = GrpcCarrier(OPEN, None, Limits(message=LIMIT), relay)
    port = await made.listen("127.0.0.1")
    made.join(name, 1)
    made.failed = fail
    return made, f"127.0.0.1:{port}"


def via(of: GrpcCarrier, to: str) -> Via | None:
    state = of.links().get(to)
    return None if state is None else state.via


@pytest.mark.parametrize("credentials", [OPEN, TLS], ids=["ws", "wss"])
def test_two_that_cannot_be_dialled_meet_at_the_relay(credentials: Credentials) -> None:
    async def work() -> None:
        with place(credentials) as at:
            async with hidden_pair(at.relay, credentials) as (a, b):
                a.send(letter(push(1, values=1_000_000)))
                b.send(letter(push(2), "b", "a"))
                assert plain((await letters(b, 1))[0].message) == plain(push(1, values=1_000_000))
                assert plain((await letters(a, 1))[0].message) == plain(push(2))
                await until(lambda: a.idle and b.idle)
                state = a.links()["b"]
                assert (state.via, via(b, "a")) == (Via.RELAY, Via.RELAY)
                assert state.rtt_ms is not None
                assert state.rtt_ms > 0
                assert state.mb_per_s is not None
                assert state.mb_per_s > 0

    run(work)


def test_the_relay_sees_nothing_of_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though these workers would not encrypt what stays on their machine."""
    copied = bytearray()
    send = fastapi.WebSocket.send_bytes

    async def recorded(self: fastapi.WebSocket, data: bytes) -> None:
        copied.extend(data)
        await send(self, data)

    monkeypatch.setattr(fastapi.WebSocket, "send_bytes", recorded)

    async def work() -> None:
        with place() as at:
            async with hidden_pair(at.relay) as (a, b):
                b.offers.offer("state", [memoryview(LETTER * 1000)])
                a.send(letter(push(1, values=10_000)))
                await letters(b, 1)
                body = await a.fetch(Giver("b", ""), "state", "a", len(LETTER) * 1000, 10.0, exact=True)
                assert bytes(body) == LETTER * 1000

    run(work)
    packet = push(1, values=10_000).packet
    assert packet is not None
    said = bytes(raw_bytes(packet.parts[0]))
    assert len(copied) > len(said) + 1000 * len(LETTER), "all of it went through the relay"
    for plain_text in (LETTER, said[:64], said[20_000:20_064], OPEN.token.encode(), b"roadtrain.Peers"):
        assert plain_text not in copied


def test_who_does_not_listen_opens_no_port() -> None:
    async def work() -> None:
        with place() as at:
            before = listening_sockets()
            async with hidden_pair(at.relay) as (a, b):
                a.send(letter(Pull(0, 1)))
                await letters(b, 1)
                assert listening_sockets() == before
                seen, _ = await carrier("c")
                assert listening_sockets() > before, "it would be seen"
                await seen.close()

    run(work)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path leaves room for that of a socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_the_sockets_are_this_users_alone_and_go_with_the_worker(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(short))

    async def work() -> None:
        with place() as at:
            async with hidden_pair(at.relay) as (a, b):
                a.send(letter(Pull(0, 1)))
                await letters(b, 1)
                folders = list(short.iterdir())
                assert len(folders) == 2
                assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}

    run(work)
    assert not list(short.iterdir())


def test_what_killed_processes_have_left_is_removed(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    sockets: dict[str, socket.socket] = {}
    for name in ("dead", "dead-and-new", "living"):
        (short / f"roadtrain-{name}").mkdir()
        sockets[name] = socket.socket(socket.AF_UNIX)
        sockets[name].bind(str(short / f"roadtrain-{name}" / "server"))
        sockets[name].listen()
        if name != "living":
            sockets[name].close()
        old = time.time() - (0 if name.endswith("new") else 2 * LEFT_S)
        os.utime(short / f"roadtrain-{name}" / "server", (old, old))
    _private_folder().cleanup()
    sockets["living"].close()
    assert sorted(path.name for path in short.iterdir()) == ["roadtrain-dead-and-new", "roadtrain-living"]


def test_a_folder_whose_path_is_too_long_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))

    async def work() -> None:
        with place() as at:
            async with hidden_pair(at.relay) as (a, b):
                a.send(letter(Pull(0, 1)))
                await letters(b, 1)

    run(work)
    assert not list(deep.iterdir())


# ---------------------------------------------------------------------------------------------------- direct or relay


@pytest.mark.parametrize("listens", ["a", "b"])
def test_one_that_listens_is_dialled_at_once_and_no_relay_needed(listens: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "DIAL_AFTER_S", 3600.0)

    async def work() -> None:
        with place() as at:
            other = "b" if listens == "a" else "a"
            one, address = await seen(listens, at.relay)
            two = await hidden(other, at.relay)
            one.connect({other: ""}, ONE)
            two.connect({listens: address}, ONE)
            one.send(letter(Pull(0, 1), listens, other))
            await letters(two, 1)
            assert (via(one, other), via(two, listens)) == (Via.DIRECT, Via.DIRECT)
            await one.close()
            await two.close()

    run(work)


def test_a_direct_way_that_appears_takes_the_relays_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer's address changes."""
    monkeypatch.setattr(connection, "DIAL_AFTER_S", 0.05)

    async def work() -> None:
        with place() as at:
            (a, to_a), (b, _) = [await seen(name, at.relay) for name in "ab"]
            a.connect({"b": "127.0.0.1:1"}, ONE)
            b.connect({"a": "127.0.0.1:1"}, ONE)
            await until(lambda: via(a, "b") is Via.RELAY and via(b, "a") is Via.RELAY)
            for clock in range(20):
                a.send(letter(push(clock, values=100_000)))
            b.connect({"a": to_a}, ONE)
            await until(lambda: via(a, "b") is Via.DIRECT and via(b, "a") is Via.DIRECT)
            got = {plain(each.message)[1]["clock"] for each in await letters(b, 20)}
            assert got == set(range(20)), "nothing is lost by the change"
            await a.close()
            await b.close()

    run(work)


def test_direct_is_tried_again_while_the_relay_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address was right all the time, and nobody listened there yet."""
    monkeypatch.setattr(connection, "DIAL_AFTER_S", 0.05)
    monkeypatch.setattr(connection, "HELLO_S", 0.3)
    monkeypatch.setattr(connection, "DIRECT_AGAIN_S", 0.2)

    async def work() -> None:
        with place() as at:
            a = await hidden("a", at.relay)
            b, inside = await seen("b", at.relay)
            gate = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
            port = gate.sockets[0].getsockname()[1]
            a.connect({"b": f"127.0.0.1:{port}"}, ONE)
            b.connect({"a": ""}, ONE)
            await until(lambda: via(a, "b") is Via.RELAY)
            gate.close()

            async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                to, out = await asyncio.open_connection(*parted(inside))
                await asyncio.gather(copy(reader, out), copy(to, writer))

            opened = await asyncio.start_server(forward, "127.0.0.1", port)
            await until(lambda: via(a, "b") is Via.DIRECT and via(b, "a") is Via.DIRECT)
            a.send(letter(Pull(0, 1)))
            await letters(b, 1)
            opened.close()
            await a.close()
            await b.close()

    run(work)


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
    writer.close()


def test_when_the_direct_way_breaks_the_relay_carries_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "DIAL_AFTER_S", 0.05)

    async def work() -> None:
        with place() as at:
            a = await hidden("a", at.relay)
            b, inside = await seen("b", at.relay)
            writers: list[asyncio.StreamWriter] = []

            async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                to, out = await asyncio.open_connection(*parted(inside))
                writers.extend((writer, out))
                await asyncio.gather(copy(reader, out), copy(to, writer), return_exceptions=True)

            gate = await asyncio.start_server(forward, "127.0.0.1", 0)
            a.connect({"b": f"127.0.0.1:{gate.sockets[0].getsockname()[1]}"}, ONE)
            b.connect({"a": ""}, ONE)
            await until(lambda: via(a, "b") is Via.DIRECT)
            gate.close()
            for writer in writers:
                writer.transport.abort()
            a.send(letter(push(1)))
            await letters(b, 1)
            assert via(a, "b") is Via.RELAY
            await a.close()
            await b.close()

    run(work)


def test_when_the_relay_goes_the_direct_way_is_tried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not only when its turn comes again."""
    monkeypatch.setattr(connection, "DIAL_AFTER_S", 0.05)
    monkeypatch.setattr(connection, "HELLO_S", 0.3)

    async def work() -> None:
        with place() as at:
            a = await hidden("a", at.relay)
            b, inside = await seen("b", at.relay)
            port = free_port()
            a.connect({"b": f"127.0.0.1:{port}"}, ONE)
            b.connect({"a": ""}, ONE)
            await until(lambda: via(a, "b") is Via.RELAY)
            await asyncio.sleep(0.5)  # direct has been tried

            async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                to, out = await asyncio.open_connection(*parted(inside))
                await asyncio.gather(copy(reader, out), copy(to, writer), return_exceptions=True)

            gate = await asyncio.start_server(forward, "127.0.0.1", port)
            await asyncio.to_thread(at.stop)
            await until(lambda: via(a, "b") is Via.DIRECT)
            gate.close()
            await a.close()
            await b.close()
            at.start()

    run(work)


# -------------------------------------------------------------------------------------------------------- accidents


def test_a_relay_that_dies_and_comes_back_is_found_again() -> None:
    async def work() -> None:
        with place() as at:
            async with hidden_pair(at.relay) as (a, b):
                a.send(letter(Pull(0, 1)))
                await letters(b, 1)
                await until(lambda: a.idle)  # else it comes once more
                await asyncio.to_thread(at.stop)
                await until(lambda: not a.links() and not b.links())
                a.send(letter(push(2)))
                at.start()
                assert plain((await letters(b, 1))[0].message) == plain(push(2))

    run(work)


def test_a_relay_that_comes_late_is_waited_for() -> None:
    async def work() -> None:
        with place() as at:
            at.stop()
            async with hidden_pair(at.relay) as (a, b):
                a.send(letter(Pull(0, 1)))
                await asyncio.sleep(0.1)
                at.start()
                await letters(b, 1)

    run(work)


def test_a_relay_with_another_token_is_said_in_one_line() -> None:
    async def work() -> None:
        with place() as at:
            a = await hidden("a", Relay(at.relay.url, "Bearer guess"))
            failed: list[BaseException] = []
            a.failed = failed.append
            await until(lambda: bool(failed))
            assert isinstance(failed[0], PeerError)
            assert (
                failed[0].line()
                == f"the relay at {at.relay.url} refuses this worker: HTTP 403 (is its token the same?)"
            )
            assert "guess" not in repr(Relay(at.relay.url, "Bearer guess"))
            await a.close()

    run(work)


def test_a_relay_with_another_certificate_is_said_in_one_line() -> None:
    async def work() -> None:
        with place(TLS) as at:
            other = Relay.with_token(at.relay.url, Credentials("guess", secure=True))
            a = await hidden("a", other)
            failed: list[BaseException] = []
            a.failed = failed.append
            await until(lambda: bool(failed))
            assert isinstance(failed[0], PeerError)
            assert "has another certificate" in failed[0].line()
            assert "\n" not in failed[0].line()
            await a.close()

    run(work)


def test_whoever_has_the_relays_token_and_not_the_runs_reaches_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HELLO_S", 0.5)

    async def work() -> None:
        with place() as at:
            a = await hidden("a", at.relay, Credentials("guess", secure=False))
            a.failed = lambda error: None
            b = await hidden("b", at.relay)
            a.connect({"b": ""}, ONE)
            b.connect({"a": ""}, ONE)
            a.send(letter(Pull(0, 1)))
            await asyncio.sleep(1.0)
            assert not a.links()
            assert not b.links()
            await a.close()
            await b.close()

    run(work)


def test_a_later_process_takes_its_place_at_the_relay() -> None:
    async def work() -> None:
        with place() as at:
            async with hidden_pair(at.relay) as (a, old):
                a.send(letter(Pull(0, 1)))
                await letters(old, 1)
                new = await hidden("b", at.relay, incarnation=2)
                new.connect({"a": ""}, ONE)
                a.connect({"b": ""}, {"b": 2})
                a.send(letter(Pull(0, 2)))
                assert [e.message for e in await letters(new, 1)] == [Pull(0, 2)]
                await new.close()

    run(work)


def test_who_goes_is_away_at_once() -> None:
    """Its process ends: the relay ends what it had with others."""

    async def work() -> None:
        with place() as at:
            async with hidden_pair(at.relay) as (a, b):
                a.send(letter(Pull(0, 1)))
                await letters(b, 1)
                await b.close()
                await until(lambda: not a.links())

    run(work)


def test_a_state_comes_through_the_relay_where_the_address_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadtrain.wire.carrier.DIAL_AFTER_S", 0.1)

    async def work() -> None:
        with place() as at:
            a, b = await hidden("a", at.relay), await hidden("b", at.relay)
            body = os.urandom(3_000_000)
            b.offers.offer("state", [memoryview(body)])
            for address in ("", "127.0.0.1:1"):
                assert bytes(await a.fetch(Giver("b", address), "state", "a", len(body), 10.0, exact=True)) == body
            assert b.offers.taken["state"] == {"a"}
            await a.close()
            await b.close()

    run(work)
