"""A worker's client against a coordinator that is played by hand, and whose connections break."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Queue
from typing import Any

import pytest
from people import details
from websockets.sync.server import ServerConnection, serve

from roadtrain.errors import RunFailed
from roadtrain.fleet.client import Client
from roadtrain.wire import Credentials

PATIENCE_S = 30.0
"""Only a test that fails waits so long."""
VIEW = {"view": {"number": 1, "members": [["w0", 1]], "owners": ["w0"], "standbys": [None]}, "addresses": {}}
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
    while "beat" in (message := json.loads(connection.recv(timeout=PATIENCE_S))):
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


def test_a_join_is_repeated_until_it_is_answered(played: Played, client: Client, aside: Callable[..., Any]) -> None:
    joining = aside(client.join, details(0))
    first = played.next()
    assert heard(first) == {"join": details(0)}
    first.close()
    second = played.next()
    assert heard(second) == {"join": details(0)}
    say(second, JOINED, VIEW)
    assert joining.result(PATIENCE_S)[0].number == 1
    second.close()
    assert heard(played.next()) == {"again": JOINED["joined"]}


def test_who_is_refused_fails_with_the_reason(played: Played, client: Client, aside: Callable[..., Any]) -> None:
    joining = aside(client.join, details(0))
    say(played.next(), {"refused": "there is a w0 already"})
    with pytest.raises(RunFailed, match="there is a w0 already"):
        joining.result(PATIENCE_S)


def test_an_order_to_finish_is_carried_out_once(played: Played, client: Client, aside: Callable[..., Any]) -> None:
    joining = aside(client.join, details(0))
    connection = played.next()
    say(connection, JOINED, VIEW, VIEW, {"stop": 5}, {"stop": 5})
    joining.result(PATIENCE_S)
    say(connection, FINISH)
    assert client.await_end(PATIENCE_S) == FINISH["finish"]
    say(connection, FINISH, {"bye": True}, {"bye": True})
    assert client.await_end(PATIENCE_S) is None
