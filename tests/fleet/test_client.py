"""A worker's client against a coordinator that is played by hand, and whose connections break."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import Queue
from typing import Any, TypeVar

import pytest
from talk import SPEC
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from roadtrain.errors import Interrupted, PeerError, RunFailed
from roadtrain.fleet.client import Client
from roadtrain.fleet.close_codes import OVER, WRONG_VERSION
from roadtrain.fleet.succession import Succession
from roadtrain.membership.channel import Channel
from roadtrain.membership.frames import PROTOCOL, Beat, Down, Hello, Up, Welcome, encode, from_worker
from roadtrain.membership.messages import (
    Accepted,
    Finish,
    Freeze,
    FromWorker,
    Frozen,
    Happened,
    Join,
    JoinRequest,
    NewView,
    Refused,
    Shutdown,
    StopAt,
    ToWorker,
)
from roadtrain.view import Member, View
from roadtrain.wire.credentials import Credentials

PATIENCE_S = 30.0
"""Only a test that fails waits so long."""
NUMBER_ONE = View(1, (Member("w0", 1),), ("w0",), (None,))
VIEW = NewView(NUMBER_ONE, {"w0": "127.0.0.1:1"}, {"w0": {"trained": "abc"}})
REQUEST = JoinRequest(
    address="127.0.0.1:1",
    structure="a model",
    digests={"trained": "abc"},
    sizes=(100, 50),
    model_bytes=150,
    sharded=True,
    rounds=True,
    period=1,
    plan="",
)
FINISH = Finish({"w0": 1}, True)
T = TypeVar("T", bound=FromWorker)


def numbered(number: int) -> NewView:
    return NewView(View(number, NUMBER_ONE.members, NUMBER_ONE.owners, NUMBER_ONE.standbys), VIEW.addresses, VIEW.first)


class Line:
    """One connection, as the coordinator sees it, whose memory is `channel`."""

    def __init__(self, connection: ServerConnection, channel: Channel[ToWorker], *, fresh: bool) -> None:
        self._connection, self._channel = connection, channel
        hello = self._frame()
        assert isinstance(hello, Hello)
        self.process = hello.process
        if not fresh:
            channel.connected(hello.heard)
        connection.send(encode(Welcome(PROTOCOL, "1", channel.heard, fresh)))

    def _frame(self) -> Hello | Up | Beat:
        raw = self._connection.recv(timeout=PATIENCE_S)
        assert isinstance(raw, bytes)
        return from_worker(raw)

    def say(self, *messages: ToWorker) -> None:
        for message in messages:
            self._channel.say(message)
        for number, message in self._channel.outgoing():
            self._connection.send(encode(Down(number, self._channel.heard, message)))

    def garbage(self, raw: bytes | str) -> None:
        self._connection.send(raw)

    def heard(self, kind: type[T]) -> T:
        """The next message, which is of this kind, and news."""
        while isinstance(frame := self._frame(), Beat):
            self._channel.acknowledged(frame.heard)
        assert isinstance(frame, Up)
        self._channel.acknowledged(frame.heard)
        assert self._channel.take(frame.number), "it was heard before"
        assert isinstance(frame.message, kind), frame
        return frame.message

    def beat(self) -> Beat:
        """The next heartbeat."""
        while not isinstance(frame := self._frame(), Beat):
            pass
        return frame

    def close(self, code: int = 1000, reason: str = "") -> None:
        self._connection.close(code, reason)


class Played:
    """A coordinator: `next` is the next connection of the client."""

    def __init__(self) -> None:
        self.channel: Channel[ToWorker] = Channel()
        self.channel.say(SPEC)
        self._connections: Queue[ServerConnection] = Queue()
        self._server = serve(self._hold, "127.0.0.1", 0, close_timeout=0.1)
        self.url = f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _hold(self, connection: ServerConnection) -> None:
        self._connections.put(connection)
        connection.recv_events_thread.join()  # returning from here would close it

    def next(self, *, fresh: bool = False) -> Line:
        line = Line(self._connections.get(timeout=PATIENCE_S), self.channel, fresh=fresh)
        line.say()
        return line

    def forget(self) -> None:
        """It is started again."""
        self.channel = Channel()
        self.channel.say(SPEC)

    def close(self) -> None:
        self._server.shutdown()


@pytest.fixture
def played() -> Iterator[Played]:
    made = Played()
    yield made
    made.close()


@pytest.fixture
def aside() -> Callable[..., Future[Any]]:
    """Runs what waits on a thread of its own, which keeps nobody: a test that fails leaves one that waits for ever."""

    def submit(work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(work(*arguments))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future

    return submit


Aside = Callable[..., "Future[Any]"]


def opened(url: str) -> Client:
    return Client.open(Succession(url, "127.0.0.1", None), Credentials("token", secure=False), PATIENCE_S)


@pytest.fixture
def pair(played: Played, aside: Aside) -> Iterator[tuple[Client, Line]]:
    """A client and its first connection."""
    opening = aside(opened, played.url)
    line = played.next(fresh=True)
    client = opening.result(PATIENCE_S)
    yield client, line
    client.close()


def join(client: Client, line: Line, aside: Aside) -> None:
    joining = aside(client.join, REQUEST)
    line.heard(Join)
    line.say(Accepted("w0", 1), VIEW)
    joining.result(PATIENCE_S)


def test_a_worker_joins_and_is_told_the_view(pair: tuple[Client, Line], aside: Aside) -> None:
    client, line = pair
    assert client.spec() == SPEC
    joining = aside(client.join, REQUEST)
    said = line.heard(Join)
    assert (said.request, said.slot, said.process) == (REQUEST, 0, line.process)
    line.say(Accepted("w0", 1), VIEW)
    joined = joining.result(PATIENCE_S)
    assert (joined.view, joined.addresses, joined.first.digests) == (VIEW.view, VIEW.addresses, VIEW.first)
    assert (client.me, client.incarnation, client.is_first()) == ("w0", 1, True)


def test_what_was_not_heard_is_said_again_and_the_rest_is_not(
    played: Played, pair: tuple[Client, Line], aside: Aside
) -> None:
    client, first = pair
    joining = aside(client.join, REQUEST)
    first.heard(Join)
    first.close()
    client.event("meanwhile")
    second = played.next()
    assert second.heard(Happened).event == "meanwhile"
    second.say(Accepted("w0", 1), VIEW)
    joining.result(PATIENCE_S)


def test_a_coordinator_that_was_started_again_is_told_who_this_is_first(
    played: Played, pair: tuple[Client, Line], aside: Aside
) -> None:
    client, line = pair
    join(client, line, aside)
    client.event("one")
    line.heard(Happened)
    played.forget()
    line.close()
    client.event("two")
    again = played.next(fresh=True)
    assert again.heard(Join).process == line.process
    assert [again.heard(Happened).event for _ in range(2)][-1] == "two"


def test_heartbeats_tell_of_steps_and_waits(pair: tuple[Client, Line], aside: Aside) -> None:
    client, line = pair
    join(client, line, aside)
    client.observe(lambda: True)
    assert client.may_step(8)
    while not (beat := line.beat()).waits:
        pass
    assert beat.step == 7


def test_who_is_refused_fails_with_the_reason(pair: tuple[Client, Line], aside: Aside) -> None:
    client, line = pair
    joining = aside(client.join, REQUEST)
    line.say(Refused("there is a w0 already"))
    with pytest.raises(RunFailed, match="there is a w0 already"):
        joining.result(PATIENCE_S)


def test_an_order_to_finish_is_carried_out_once(pair: tuple[Client, Line], aside: Aside) -> None:
    client, line = pair
    join(client, line, aside)
    line.say(VIEW, StopAt(5), StopAt(5), FINISH)
    assert client.await_end(PATIENCE_S) == FINISH
    line.say(FINISH, Shutdown(), Shutdown())
    assert client.await_end(PATIENCE_S) is None


def test_a_stop_holds_the_next_step_until_it_is_agreed_on(pair: tuple[Client, Line], aside: Aside) -> None:
    client, line = pair
    join(client, line, aside)
    assert client.may_step(3)
    line.say(Freeze())
    assert line.heard(Frozen) == Frozen(3)
    fourth = aside(client.may_step, 4)
    line.say(StopAt(4))
    assert fourth.result(PATIENCE_S) is True
    assert client.may_step(5) is False


NONSENSE = {"text": "no frame", "bytes": b"\x00", "the future": encode(Down(99, 0, Freeze()))}


@pytest.mark.parametrize("raw", NONSENSE.values(), ids=NONSENSE.keys())
def test_what_it_cannot_understand_ends_the_wait_with_one_line(
    pair: tuple[Client, Line], aside: Aside, raw: bytes | str
) -> None:
    client, line = pair
    joining = aside(client.join, REQUEST)
    line.garbage(raw)
    with pytest.raises(RunFailed, match="says what this worker does not understand") as failed:
        joining.result(PATIENCE_S)
    assert "\n" not in failed.value.line()


def test_words_under_way_do_not_hold_up_the_end(
    pair: tuple[Client, Line], aside: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something is said in the very moment in which the connection is given up."""
    client, line = pair
    join(client, line, aside)
    told: Queue[str] = Queue()
    client.on_end(told.put)

    def misunderstand(frame: object, now: float) -> None:
        client.event("meanwhile")
        raise PeerError("what is this?")

    monkeypatch.setattr(client._state, "receive", misunderstand)
    line.say(FINISH)
    assert "what is this?" in told.get(timeout=PATIENCE_S)


def test_what_it_cannot_understand_later_ends_the_training_too(pair: tuple[Client, Line], aside: Aside) -> None:
    client, line = pair
    join(client, line, aside)
    told: Queue[str] = Queue()
    client.on_end(told.put)
    line.garbage("no frame")
    assert "does not understand" in told.get(timeout=PATIENCE_S)
    assert client.may_step(5) is False


def test_a_run_that_ends_while_this_worker_trains_is_told_to_it(pair: tuple[Client, Line], aside: Aside) -> None:
    client, line = pair
    join(client, line, aside)
    line.say(Shutdown())
    assert client.await_end(PATIENCE_S) is None
    told: list[str] = []
    client.on_end(told.append)
    assert told == ["the run has ended"], "it may have ended before anybody asked"


def test_no_view_is_waited_for_when_the_run_has_ended(pair: tuple[Client, Line], aside: Aside) -> None:
    client, line = pair
    join(client, line, aside)
    waiting = aside(client.next_view, 1, 10 * PATIENCE_S)
    line.say(Shutdown("all workers are lost"))
    with pytest.raises(RunFailed, match="all workers are lost"):
        waiting.result(PATIENCE_S)


def test_every_view_is_handed_on_once(pair: tuple[Client, Line], aside: Aside) -> None:
    client, line = pair
    join(client, line, aside)
    numbers: Queue[int] = Queue()
    client.on_view(lambda view, addresses: numbers.put(view.number))
    line.say(numbered(2), numbered(3))
    assert [numbers.get(timeout=PATIENCE_S) for _ in range(2)] == [2, 3]


def test_who_was_taken_for_lost_may_come_back(pair: tuple[Client, Line], aside: Aside) -> None:
    client, line = pair
    join(client, line, aside)
    without: Queue[dict[str, str]] = Queue()
    client.on_view(lambda view, addresses: without.put(addresses))
    line.say(NewView(View(2, (Member("w1", 2),), ("w1",), (None,)), {}, {}))
    assert without.get(timeout=PATIENCE_S) == {}
    again = aside(client.join, REQUEST)
    line.heard(Join)
    line.say(Accepted("w0", 3), numbered(3))
    assert again.result(PATIENCE_S).view.number == 3
    assert client.incarnation == 3


@pytest.mark.parametrize(("code", "reason"), [(OVER, "the run is over"), (WRONG_VERSION, "the coordinator runs 2")])
def test_a_connection_that_is_closed_for_good_is_not_opened_again(
    pair: tuple[Client, Line], aside: Aside, code: int, reason: str
) -> None:
    client, line = pair
    joining = aside(client.join, REQUEST)
    line.heard(Join)
    line.close(code, reason)
    with pytest.raises(RunFailed, match=reason):
        joining.result(PATIENCE_S)


def test_a_wrong_token_ends_the_wait_at_once() -> None:
    def refuse(connection: ServerConnection, request: Request) -> Response:
        return connection.respond(403, "no")

    server = serve(lambda connection: None, "127.0.0.1", 0, process_request=refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = opened(f"ws://127.0.0.1:{server.socket.getsockname()[1]}")
    with pytest.raises(RunFailed, match="is the token right"):
        client.spec()
    client.close()
    server.shutdown()


def test_who_waits_for_a_coordinator_says_so_and_can_be_told_to_stop() -> None:
    waited: list[float] = []

    def enough(whom: str, seconds: float) -> bool:
        waited.append(seconds)
        return len(waited) < 3

    with pytest.raises(Interrupted, match="before there was a coordinator"):
        nowhere = Succession("ws://127.0.0.1:9", "127.0.0.1", None)
        Client.open(nowhere, Credentials("token", secure=False), PATIENCE_S, waiting=enough)
    assert waited == sorted(waited)


def test_a_coordinator_that_has_gone_silent_is_connected_to_anew(
    played: Played, pair: tuple[Client, Line], aside: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, line = pair
    join(client, line, aside)
    monkeypatch.setattr("roadtrain.fleet.line.SILENT_S", 0.2)
    line.say(StopAt(9))  # the wait that began before was longer
    again = played.next()
    assert again.process == line.process


def test_who_waits_for_others_without_a_coordinator_is_told_after_a_while(
    played: Played, pair: tuple[Client, Line], aside: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody takes over from a worker that dies then, and its state does not come."""
    monkeypatch.setattr("roadtrain.fleet.line.LOST_S", 0.3)
    client, line = pair
    join(client, line, aside)
    told: Queue[str] = Queue()
    client.on_end(told.put)
    client.observe(lambda: True)
    played.close()
    line.close()
    assert "another worker has not answered" in told.get(timeout=PATIENCE_S)
    assert client.may_step(5) is False


def test_who_waits_for_a_run_to_begin_does_not_wait_for_a_coordinator_that_is_gone(
    played: Played, pair: tuple[Client, Line], aside: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roadtrain.fleet.client.BEGIN_S", 0.3)
    client, line = pair
    joining = aside(client.join, REQUEST)
    line.heard(Join)
    played.close()
    line.close()
    with pytest.raises(RunFailed, match="the run had not begun"):
        joining.result(timeout=PATIENCE_S)


def test_closing_takes_no_longer_than_what_is_left_to_say(pair: tuple[Client, Line], aside: Aside) -> None:
    client, line = pair
    join(client, line, aside)
    line.close()
    begin = time.monotonic()
    client.close()
    assert time.monotonic() - begin < PATIENCE_S
