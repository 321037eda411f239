"""A worker's client against a coordinator that is played by hand, and whose connections break."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from queue import Queue
from typing import Any

import pytest
from websockets.sync.server import ServerConnection, serve

from roadtrain.errors import RunFailed
from roadtrain.fleet.client import Client
from roadtrain.session.control import JoinRequest
from roadtrain.wire import Credentials

PATIENCE_S = 30.0
"""Only a test that fails waits so long."""
VIEW = {
    "view": {"number": 1, "members": [["w0", 1]], "owners": ["w0"], "standbys": [None]},
    "addresses": {"w0": "127.0.0.1:1"},
    "first": {"w0": {"trained": "abc"}},
}
REQUEST = JoinRequest(
    address="127.0.0.1:1",
    structure="a model",
    digests={"trained": "abc"},
    sizes=(100, 50),
    model_bytes=150,
    sharded=True,
    rounds=True,
    plan="",
)
JOINED = {"joined": {"worker": "w0", "incarnation": 1}}
FINISH = {"finish": {"steps": {"0": 1}, "evaluate": True}}


class Played:
    """A coordinator: `next` is the next connection of the client."""

    def __init__(self) -> None:
        self._connections: Queue[ServerConnection] = Queue()
        self._server = serve(self._hold, "127.0.0.1", 0, close_timeout=0.1)
        self.url = f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _hold(self, connection: ServerConnection) -> None:
        say(connection, {"briefing": {}})
        self._connections.put(connection)
        connection.recv_events_thread.join()  # returning from here would close it

    def next(self) -> ServerConnection:
        return self._connections.get(timeout=PATIENCE_S)

    def close(self) -> None:
        self._server.shutdown()


def say(connection: ServerConnection, *messages: dict[str, Any]) -> None:
    for message in messages:
        connection.send(json.dumps(message))


def heard(connection: ServerConnection) -> dict[str, Any]:
    """The next message that is not a heartbeat."""
    while "heartbeat" in (message := json.loads(connection.recv(timeout=PATIENCE_S))):
        pass
    return message


@pytest.fixture
def played() -> Iterator[Played]:
    made = Played()
    yield made
    made.close()


@pytest.fixture
def client(played: Played) -> Iterator[Client]:
    made = Client(played.url, Credentials("token", secure=False), PATIENCE_S)
    yield made
    made.close()


@pytest.fixture
def aside() -> Iterator[Callable[..., Future[Any]]]:
    """Runs what waits on a thread."""
    with ThreadPoolExecutor() as pool:
        yield pool.submit


def introduced() -> dict[str, Any]:
    """What the coordinator hears of it."""
    said = {"slot": 0, "pid": os.getpid(), "host": socket.gethostname(), **asdict(REQUEST)}
    return json.loads(json.dumps({"join": said}))


def test_a_join_is_repeated_until_it_is_answered(played: Played, client: Client, aside: Callable[..., Any]) -> None:
    joining = aside(client.join, REQUEST)
    first = played.next()
    assert heard(first) == introduced()
    first.close()
    second = played.next()
    assert heard(second) == introduced()
    say(second, JOINED, VIEW)
    joined = joining.result(PATIENCE_S)
    assert joined.view.number == 1
    assert joined.addresses == VIEW["addresses"]
    assert joined.first.digests == VIEW["first"]
    second.close()
    assert heard(played.next()) == {"again": JOINED["joined"]}


def test_who_is_refused_fails_with_the_reason(played: Played, client: Client, aside: Callable[..., Any]) -> None:
    joining = aside(client.join, REQUEST)
    say(played.next(), {"refused": "there is a w0 already"})
    with pytest.raises(RunFailed, match="there is a w0 already"):
        joining.result(PATIENCE_S)


def test_an_order_to_finish_is_carried_out_once(played: Played, client: Client, aside: Callable[..., Any]) -> None:
    joining = aside(client.join, REQUEST)
    connection = played.next()
    say(connection, JOINED, VIEW, VIEW, {"stop": 5}, {"stop": 5})
    joining.result(PATIENCE_S)
    say(connection, FINISH)
    assert client.await_end(PATIENCE_S) == FINISH["finish"]
    say(connection, FINISH, {"bye": True}, {"bye": True})
    assert client.await_end(PATIENCE_S) is None


NONSENSE = {
    "a view without members": {"view": {"number": 1}, "addresses": {}, "first": {}},
    "a view without first weights": {"view": VIEW["view"], "addresses": {}},
    "a stop that is no step": {"stop": "soon"},
}


@pytest.mark.parametrize("message", NONSENSE.values(), ids=NONSENSE.keys())
def test_what_it_cannot_understand_ends_the_wait_with_one_line(
    played: Played, client: Client, aside: Callable[..., Any], message: Mapping[str, Any]
) -> None:
    joining = aside(client.join, REQUEST)
    say(played.next(), JOINED, dict(message))
    with pytest.raises(RunFailed, match="says what this worker does not understand") as failed:
        joining.result(PATIENCE_S)
    assert "\n" not in failed.value.line()


def test_what_it_cannot_understand_later_ends_the_training_too(
    played: Played, client: Client, aside: Callable[..., Any]
) -> None:
    joining = aside(client.join, REQUEST)
    connection = played.next()
    say(connection, JOINED, VIEW)
    joining.result(PATIENCE_S)
    told: Queue[str] = Queue()
    client.on_end(told.put)
    connection.send("no json")
    assert "does not understand" in told.get(timeout=PATIENCE_S)
    assert client.may_step(5) is False


def test_a_run_that_ends_while_this_worker_trains_is_told_to_it(
    played: Played, client: Client, aside: Callable[..., Any]
) -> None:
    joining = aside(client.join, REQUEST)
    connection = played.next()
    say(connection, JOINED, VIEW)
    joining.result(PATIENCE_S)
    say(connection, {"bye": True})
    assert client.await_end(PATIENCE_S) is None
    told: list[str] = []
    client.on_end(told.append)
    assert told == ["the run has ended"], "it may have ended before anybody asked"


def test_every_view_is_handed_on_once(played: Played, client: Client, aside: Callable[..., Any]) -> None:
    joining = aside(client.join, REQUEST)
    connection = played.next()
    say(connection, JOINED, VIEW)
    joining.result(PATIENCE_S)
    numbers: Queue[int] = Queue()
    client.on_view(lambda view, addresses: numbers.put(view.number))
    second = {**VIEW, "view": {**VIEW["view"], "number": 2}}
    say(connection, VIEW, second, second, {**VIEW, "view": {**VIEW["view"], "number": 3}})
    assert [numbers.get(timeout=PATIENCE_S) for _ in range(2)] == [2, 3]


def test_a_briefing_that_it_cannot_understand_is_one_line() -> None:
    server = serve(lambda connection: connection.send("no json"), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = Client(f"ws://127.0.0.1:{server.socket.getsockname()[1]}", Credentials("token", secure=False), PATIENCE_S)
    with pytest.raises(RunFailed, match="does not understand"):
        client.briefing()
    client.close()
    server.shutdown()
