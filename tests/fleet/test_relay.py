"""The relay by itself: who is called, who is let in, what is copied, and what ends."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from roadtrain.fleet import relay
from roadtrain.fleet.serving import listen, server_of
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.relay import COPIED_BYTES, NOBODY, SILENT, SUPERSEDED

OPEN = Credentials("token", secure=False)
PATIENCE_S = 20.0
"""Only a test that fails waits so long."""
RUNS = {"Bearer one": "1", "Bearer two": "2"}


@pytest.fixture
def url() -> Iterator[str]:
    """Of a relay for two runs, which have their tokens; also under a name."""
    app = FastAPI()
    router = relay.relay_router(RUNS.get)
    app.include_router(router)
    app.include_router(router, prefix="/runs/{name}")
    server, listener = server_of(app, OPEN), listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    yield f"ws://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@contextlib.contextmanager
def at(address: str, run: str = "one") -> Iterator[ClientConnection]:
    with connect(
        address, additional_headers={"authorization": f"Bearer {run}"}, proxy=None, compression=None, close_timeout=0.1
    ) as socket:
        yield socket


@contextlib.contextmanager
def pair(url: str) -> Iterator[tuple[ClientConnection, ClientConnection]]:
    """A caller and whom it has called."""
    with at(f"{url}/relay/wait?peer=b&incarnation=1") as line, at(f"{url}/relay/dial?peer=b") as caller:
        call = line.recv(PATIENCE_S)
        assert isinstance(call, str)
        with at(f"{url}/relay/accept?call={call}") as callee:
            yield caller, callee


def closed(socket: ClientConnection) -> int:
    """The code with which it is closed."""
    with pytest.raises(ConnectionClosed) as over:
        while True:
            socket.recv(PATIENCE_S)
    assert over.value.rcvd is not None
    return over.value.rcvd.code


def test_what_one_says_the_other_hears_in_order(url: str) -> None:
    with pair(url) as (caller, callee):
        for n in range(100):
            caller.send(bytes([n]) * 1000)
        callee.send(b"and back")
        assert [callee.recv(PATIENCE_S) for _ in range(100)] == [bytes([n]) * 1000 for n in range(100)]
        assert caller.recv(PATIENCE_S) == b"and back"


@pytest.mark.parametrize("path", ["wait?peer=b&incarnation=1", "dial?peer=b", "accept?call=1"])
@pytest.mark.parametrize("token", ["three", ""])
def test_who_has_no_runs_token_is_refused(url: str, path: str, token: str) -> None:
    with pytest.raises(InvalidStatus) as refused, at(f"{url}/relay/{path}", token):
        ...
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("path", ["wait?peer=b", "wait?peer=b&incarnation=x", "dial", "accept?call=x"])
def test_who_asks_wrongly_is_refused(url: str, path: str) -> None:
    with pytest.raises(InvalidStatus), at(f"{url}/relay/{path}"):
        ...


def test_who_does_not_wait_cannot_be_called(url: str) -> None:
    with at(f"{url}/relay/dial?peer=b") as caller:
        assert closed(caller) == NOBODY


def test_a_peer_of_another_run_cannot_be_called(url: str) -> None:
    with at(f"{url}/relay/wait?peer=b&incarnation=1"):
        with at(f"{url}/relay/dial?peer=b", "two") as caller:
            assert closed(caller) == NOBODY
        with at(f"{url}/runs/other/relay/dial?peer=b") as caller:
            assert closed(caller) == NOBODY


def test_a_call_of_another_run_or_one_that_is_answered_cannot_be_accepted(url: str) -> None:
    with at(f"{url}/relay/wait?peer=b&incarnation=1") as line, at(f"{url}/relay/dial?peer=b") as caller:
        call = line.recv(PATIENCE_S)
        for address, run in ((url, "two"), (f"{url}/runs/other", "one")):
            with at(f"{address}/relay/accept?call={call}", run) as stranger:
                assert closed(stranger) == NOBODY
        with at(f"{url}/relay/accept?call={call}") as callee:
            callee.send(b"here")
            assert caller.recv(PATIENCE_S) == b"here"
            with at(f"{url}/relay/accept?call={call}") as second:
                assert closed(second) == NOBODY


@pytest.mark.parametrize("first", [0, 1])
def test_when_one_hangs_up_so_does_the_other(url: str, first: int) -> None:
    with pair(url) as ends:
        ends[first].send(b"last")
        assert ends[1 - first].recv(PATIENCE_S) == b"last"
        ends[first].close()
        assert closed(ends[1 - first]) == 1000


def test_one_that_dies_without_a_word_is_not_kept_for_ever(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "SILENT_S", 0.1)
    with pair(url) as (caller, callee):
        assert closed(caller) == closed(callee) == 1000


def test_who_waits_and_does_not_answer_is_not_there(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "ANSWER_S", 0.1)
    with at(f"{url}/relay/wait?peer=b&incarnation=1") as line:
        with at(f"{url}/relay/dial?peer=b") as caller:
            assert closed(caller) == NOBODY
        assert closed(line) == SILENT


def test_a_later_process_is_called_and_an_earlier_one_cannot_come_back(url: str) -> None:
    with at(f"{url}/relay/wait?peer=b&incarnation=1") as old, at(f"{url}/relay/wait?peer=b&incarnation=2") as new:
        assert closed(old) == SUPERSEDED
        with at(f"{url}/relay/wait?peer=b&incarnation=1") as again:
            assert closed(again) == SUPERSEDED
        with at(f"{url}/relay/dial?peer=b"):
            assert new.recv(PATIENCE_S)


def test_the_same_process_may_wait_anew(url: str) -> None:
    """Its line has broken, and the relay does not know yet."""
    with at(f"{url}/relay/wait?peer=b&incarnation=1") as old, at(f"{url}/relay/wait?peer=b&incarnation=1") as new:
        assert closed(old) == SUPERSEDED
        with at(f"{url}/relay/dial?peer=b"):
            assert new.recv(PATIENCE_S)


def test_nobody_makes_the_relay_hold_much_at_once(url: str) -> None:
    with pair(url) as (caller, callee):
        caller.send(bytes(COPIED_BYTES + 1))
        assert closed(callee) == 1000


def test_who_is_not_listened_to_is_not_read(url: str) -> None:
    """The callee takes nothing: the caller's bytes do not pile up at the relay."""
    with pair(url) as (caller, callee):
        sent = 0

        def pour() -> None:
            nonlocal sent
            with contextlib.suppress(ConnectionClosed):
                while True:
                    caller.send(bytes(COPIED_BYTES))
                    sent += COPIED_BYTES

        threading.Thread(target=pour, daemon=True).start()
        before = -1
        while before != sent:
            before = sent
            time.sleep(0.5)
        assert 0 < sent < 64 << 20, "what sockets and a few messages hold"
        callee.close()
