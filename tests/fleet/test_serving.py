"""The coordinator on a real socket, among people who send it garbage."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from people import details
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from roadtrain.errors import UsageError
from roadtrain.fleet.app import Desk
from roadtrain.fleet.coordinator import Coordinator
from roadtrain.fleet.phase import Phase
from roadtrain.fleet.serving import Serving
from roadtrain.fleet.store import Store
from roadtrain.wire import Credentials

MINE = Credentials("token", secure=False)
BRIEFING = {"briefing": {"plan": "[job]"}}
PATIENCE_S = 30.0
"""Only a test that fails waits so long."""


def desk() -> Desk:
    """The desk of a run of two workers."""
    return Desk(Coordinator(2), Store(":memory:", None), MINE, BRIEFING)


@pytest.fixture
def serving() -> Iterator[Serving]:
    made = Serving(desk(), "127.0.0.1", 0)
    yield made
    made.close()
    made.desk.store.close()


def visit(serving: Serving, credentials: Credentials = MINE) -> ClientConnection:
    return connect(serving.url + "/api/worker", additional_headers=dict(credentials.metadata), proxy=None)


def read(connection: ClientConnection) -> dict[str, Any]:
    return json.loads(connection.recv(timeout=PATIENCE_S))


def say(connection: ClientConnection, message: dict[str, Any]) -> None:
    connection.send(json.dumps(message))


def join(connection: ClientConnection, slot: int) -> dict[str, Any]:
    """Read the briefing, introduce oneself; the coordinator's answer."""
    assert read(connection) == BRIEFING
    say(connection, {"join": details(slot)})
    return read(connection)


GARBAGE = {
    "no json": "garbage",
    "half": '{"heartbeat": ',
    "a list": "[1, 2]",
    "a number": "7",
    "nothing": "{}",
    "deep": "[" * 100_000,
    "bytes": b"\x00\xff",
    "no step": '{"heartbeat": "x"}',
    "no body": '{"metrics": 7}',
    "no name": '{"event": {"time": 1}}',
    "too long": '{"heartbeat": "' + "x" * 4_000_001 + '"}',
}


@pytest.mark.parametrize("text", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_of_a_worker_closes_its_socket_and_harms_nobody(serving: Serving, text: str | bytes) -> None:
    with visit(serving) as one, visit(serving) as two:
        join(one, 0)
        join(two, 1)
        assert "view" in read(one)
        assert "view" in read(two)
        one.send(text)
        with pytest.raises(ConnectionClosed):
            read(one)
        assert serving.desk.coordinator.phase is Phase.TRAINING
        say(two, {"store": {"view": 1, "address": "x"}})
        while "store" not in read(two):  # the view without the other may come before
            pass


FIRST = {
    "no json": "garbage",
    "a list": "[1, 2]",
    "nothing": "{}",
    "no kind": '{"dance": 1}',
    "no slot": '{"join": {}}',
    "no body": '{"join": 7}',
    "no claim": '{"again": {}}',
    "too long": "x" * 4_000_001,
    "bytes": b"\x00\xff",
    "a stranger": '{"again": {"worker": "w0", "incarnation": 99}}',
}


def test_garbage_of_strangers_closes_their_sockets_and_harms_nobody(serving: Serving) -> None:
    with visit(serving) as one, visit(serving) as two:
        join(one, 0)
        for text in FIRST.values():
            with visit(serving) as stranger:
                read(stranger)
                stranger.send(text)
                with pytest.raises(ConnectionClosed):
                    read(stranger)
        assert serving.desk.coordinator.phase is Phase.GATHERING
        assert join(two, 1)["joined"]["worker"] == "w1"
        assert "view" in read(one)
        assert "view" in read(two)


def test_who_has_not_the_token_is_refused(serving: Serving) -> None:
    with pytest.raises(InvalidStatus), visit(serving, Credentials("guess", secure=False)):
        pass
    assert serving.desk.coordinator.registry.workers == {}


def test_a_worker_that_is_silent_after_its_connection_broke_is_lost(serving: Serving) -> None:
    with visit(serving) as two:
        with visit(serving) as one:
            join(one, 0)
            join(two, 1)
            assert "view" in read(one)
            assert "view" in read(two)
        view = read(two)["view"]
        assert view["members"] == [["w1", 2]]
    assert [event["event"] for event in serving.desk.store.events()] == ["joined", "joined", "lost", "handoff"]


def test_an_interrupt_and_the_end_of_a_process_reach_the_workers(serving: Serving) -> None:
    with visit(serving) as one, visit(serving) as two:
        join(one, 0)
        join(two, 1)
        assert "view" in read(one)
        serving.interrupt()
        assert read(one) == {"freeze": True}
        serving.exited("w1")
        assert read(one)["view"]["members"] == [["w0", 1]]


def test_a_port_that_is_taken_is_the_mistake_of_the_person() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="cannot listen on") as caught:
            Serving(desk(), "127.0.0.1", taken.getsockname()[1])
    assert "port" in caught.value.hint
