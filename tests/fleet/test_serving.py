"""The coordinator on a real socket, among people who send it garbage."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest
from people import details
from talk import SPEC, Talk
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from roadtrain.dashboard.broadcast import Broadcast
from roadtrain.errors import RunFailed, UsageError
from roadtrain.fleet.serving import Serving, listen
from roadtrain.fleet.sessions import Sessions
from roadtrain.fleet.store import Store
from roadtrain.membership.coordinator import Coordinator
from roadtrain.membership.messages import Accepted, Freeze, Rendezvous, Shutdown
from roadtrain.membership.phase import Phase
from roadtrain.membership.registry import Registry
from roadtrain.wire.credentials import Credentials

MINE = Credentials("token", secure=False)
PATIENCE_S = 30.0
"""Only a test that fails waits so long."""


def sessions() -> Sessions:
    """Of a run of two workers."""
    return Sessions(Coordinator(Registry(2)), Store(":memory:", None), MINE, SPEC, Broadcast())


@pytest.fixture
def serving() -> Iterator[Serving]:
    made = Serving(sessions(), listen("127.0.0.1", 0))
    yield made
    made.close()
    made.sessions.store.close()


@contextmanager
def visit(serving: Serving, process: str, credentials: Credentials = MINE) -> Iterator[Talk]:
    headers = dict(credentials.metadata)
    with connect(serving.url + "/api/worker", additional_headers=headers, proxy=None) as connection:

        def receive() -> bytes:
            raw = connection.recv(timeout=PATIENCE_S)
            assert isinstance(raw, bytes)
            return raw

        yield Talk(connection.send, receive, process)


def begin(one: Talk, two: Talk) -> None:
    """Both join; the run begins."""
    for slot, talk in enumerate((one, two)):
        talk.join(details(slot, talk.process))
    for talk in (one, two):
        talk.hear(Accepted)
        assert talk.view().view.number == 1


def packed(*said: object) -> bytes:
    return msgspec.msgpack.encode(said[0] if len(said) == 1 else said)


GARBAGE = {
    "text": "garbage",
    "nothing": b"",
    "half": packed({"type": "Beat", "heard": 0})[:-1],
    "a list": packed([1, 2]),
    "a number": packed(7),
    "no type": packed({}),
    "another type": packed({"type": "Dance"}),
    "deep": b"\x91" * 100_000,
    "bytes": b"\x00\xff",
    "a table without end": b"\xdf\xff\xff\xff\xff",
    "no time": packed({"type": "Beat", "heard": 0}),
    "a negative count": packed({"type": "Beat", "heard": -1, "at": 1.0}),
    "a step of 2^70 bits": packed({"type": "Beat", "heard": 0, "at": 1.0, "step": 2**64 - 1}),
    "no message": packed({"type": "Up", "number": 2, "heard": 0}),
    "a message of no kind": packed({"type": "Up", "number": 2, "heard": 0, "message": {"type": "Dance"}}),
    "half a message": packed({"type": "Up", "number": 2, "heard": 0, "message": {"type": "Done", "step": 1}}),
    "no step": packed({"type": "Up", "number": 2, "heard": 0, "message": {"type": "Frozen", "step": "x"}}),
    "heard the future": packed({"type": "Beat", "heard": 99, "at": 1.0}),
    "a second hello": packed({"type": "Hello", "protocol": 1, "version": "x", "process": "a", "heard": 0}),
    "too long": b"x" * 4_000_001,
}


@pytest.mark.parametrize("raw", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_of_a_worker_closes_its_socket_and_harms_nobody(serving: Serving, raw: str | bytes) -> None:
    with visit(serving, "a") as one, visit(serving, "b") as two:
        begin(one, two)
        one._send(raw)  # pyright: ignore[reportPrivateUsage, reportArgumentType]
        with pytest.raises(ConnectionClosed):
            one.frame()
        assert serving.sessions.coordinator.phase is Phase.TRAINING
        two.say(Rendezvous(1, 0, "x"))
        two.hear_until(Rendezvous)  # the view without the other may come before


def test_garbage_of_strangers_closes_their_sockets_and_harms_nobody(serving: Serving) -> None:
    with visit(serving, "a") as one, visit(serving, "b") as two:
        one.join(details(0, "a"))
        for raw in [raw for name, raw in GARBAGE.items() if name != "a second hello"]:
            with visit(serving, "stranger") as stranger, pytest.raises(ConnectionClosed):
                stranger._send(raw)  # pyright: ignore[reportPrivateUsage, reportArgumentType]
                stranger._receive()  # pyright: ignore[reportPrivateUsage]
        assert serving.sessions.coordinator.phase is Phase.GATHERING
        two.join(details(1, "b"))
        for talk in (one, two):
            assert talk.view().view.number == 1


def test_who_has_not_the_token_is_refused(serving: Serving) -> None:
    with pytest.raises(InvalidStatus), visit(serving, "a", Credentials("guess", secure=False)):
        pass
    assert serving.sessions.coordinator.registry.workers == {}


def test_a_worker_that_is_silent_after_its_connection_broke_is_lost(serving: Serving) -> None:
    with visit(serving, "b") as two:
        with visit(serving, "a") as one:
            begin(one, two)
        assert two.view().view.peers == ("w1",)
    events = [event["event"] for event in serving.sessions.store.events()]
    assert events == ["joined", "joined", "lost", "handoff"]


def test_an_interrupt_and_the_end_of_a_process_reach_the_workers(serving: Serving) -> None:
    with visit(serving, "a") as one, visit(serving, "b") as two:
        begin(one, two)
        serving.interrupt()
        assert one.hear(Freeze) == Freeze()
        serving.exited("w1")
        assert one.view().view.peers == ("w0",)


def test_a_run_that_ends_at_once_says_why(serving: Serving) -> None:
    with visit(serving, "a") as one, visit(serving, "b") as two:
        begin(one, two)
        serving.abort(RunFailed("stopped at once"))
        assert one.hear(Shutdown) == Shutdown("stopped at once")
        assert serving.sessions.over.wait(PATIENCE_S)


def test_a_port_that_is_taken_is_the_mistake_of_the_person() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="cannot listen on") as caught:
            listen("127.0.0.1", taken.getsockname()[1])
    assert "port" in caught.value.hint
