"""The coordinator's app: what it tells whom, and what it does with those who do not belong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from people import details
from starlette.testclient import WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from roadtrain.fleet.app import MESSAGE_BYTES_MAX, Desk, make_app
from roadtrain.fleet.coordinator import Coordinator
from roadtrain.fleet.phase import Phase
from roadtrain.fleet.store import Store
from roadtrain.wire import Credentials

MINE = Credentials("token", secure=False)
HEADERS = dict(MINE.metadata)
BRIEFING = {"briefing": {"plan": "[job]"}}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """The desk of a run of two workers."""
    store = Store(":memory:", tmp_path)
    yield Desk(Coordinator(2), store, MINE, BRIEFING)
    store.close()


@pytest.fixture
def client(desk: Desk) -> Iterator[TestClient]:
    with TestClient(make_app(desk)) as made:
        yield made


def worker(client: TestClient) -> WebSocketTestSession:
    return client.websocket_connect("/api/worker", headers=HEADERS)


def join(socket: WebSocketTestSession, slot: int) -> dict[str, Any]:
    """Read the briefing, introduce oneself; the coordinator's answer."""
    assert socket.receive_json() == BRIEFING
    socket.send_json({"join": details(slot)})
    return socket.receive_json()


# ------------------------------------------------------------------------------------------------------- people


def test_health_is_for_everybody(client: TestClient) -> None:
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("path", ["/api/run", "/api/events", "/api/metrics"])
@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer guess"}, {"authorization": "token"}])
def test_everything_else_wants_the_token(client: TestClient, path: str, headers: dict[str, str]) -> None:
    assert client.get(path, headers=headers).status_code == 401
    assert client.get(path, headers=HEADERS).status_code == 200


def test_the_state_of_a_run(client: TestClient, desk: Desk) -> None:
    state = client.get("/api/run", headers=HEADERS).json()
    assert (state["phase"], state["view"], state["workers"], state["lost"]) == ("gathering", 0, [], [])
    with worker(client) as one, worker(client) as two:
        join(one, 1)
        join(two, 0)
        one.receive_json()
        one.send_json({"metrics": {"step": 3, "loss": 0.5}})
        one.send_json({"heartbeat": 4})
        one.send_json({"store": {"view": 1, "address": "x"}})
        assert "store" in one.receive_json()  # all before it has been heard
        state = client.get("/api/run", headers=HEADERS).json()
        assert (state["phase"], state["view"]) == ("training", 1)
        assert state["workers"] == [
            {"id": "w0", "slot": 0, "host": "host0", "step": 0, "alive": True},
            {"id": "w1", "slot": 1, "host": "host1", "step": 4, "alive": True},
        ]
        events = client.get("/api/events", headers=HEADERS).json()
        assert [(event["event"], event["worker"]) for event in events] == [("joined", "w1"), ("joined", "w0")]
        (metric,) = client.get("/api/metrics", headers=HEADERS).json()
        assert (metric["worker"], metric["step"], metric["loss"]) == ("w1", 3, 0.5)
        assert client.get(f"/api/metrics?after={metric['id']}", headers=HEADERS).json() == []
        assert client.get("/api/metrics?after=-1", headers=HEADERS).status_code == 422
        assert client.get("/api/metrics?after=x", headers=HEADERS).status_code == 422


# ------------------------------------------------------------------------------------------------------ workers


def test_workers_join_and_are_told_the_view(client: TestClient) -> None:
    with worker(client) as one, worker(client) as two:
        assert join(one, 0) == {"joined": {"worker": "w0", "incarnation": 1}}
        assert join(two, 1) == {"joined": {"worker": "w1", "incarnation": 2}}
        views = [socket.receive_json() for socket in (one, two)]
        assert views[0] == views[1]
        assert views[0]["view"]["members"] == [["w0", 1], ["w1", 2]]
        assert views[0]["addresses"] == {"w0": "127.0.0.1:5000", "w1": "127.0.0.1:5001"}


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer guess"}])
def test_a_worker_without_the_token_is_refused(client: TestClient, desk: Desk, headers: dict[str, str]) -> None:
    with pytest.raises(WebSocketDisconnect) as caught, client.websocket_connect("/api/worker", headers=headers):
        pass
    assert caught.value.code == 4401
    assert desk.coordinator.registry.workers == {}


def test_nobody_comes_to_a_run_that_is_over(client: TestClient, desk: Desk) -> None:
    desk.coordinator.interrupt(0.0)
    assert desk.coordinator.phase is Phase.OVER
    with pytest.raises(WebSocketDisconnect) as caught, worker(client):
        pass
    assert caught.value.code == 4404


def test_a_worker_that_cannot_begin_ends_the_run(client: TestClient, desk: Desk) -> None:
    with worker(client) as one:
        one.receive_json()
        one.send_json({"failed": {"message": "no such file: x", "usage": True}, "name": "w0"})
    assert desk.coordinator.phase is Phase.OVER
    assert desk.coordinator.error is not None
    assert desk.coordinator.error.message == "no such file: x"


def test_a_worker_whose_connection_broke_comes_back(client: TestClient, desk: Desk) -> None:
    with worker(client) as two:
        with worker(client) as one:
            mine = join(one, 0)["joined"]
            join(two, 1)
            one.receive_json()
            two.receive_json()
        with worker(client) as again:
            again.receive_json()
            again.send_json({"again": mine})
            assert again.receive_json()["view"]["number"] == 1, "it may have missed it"
            again.send_json({"store": {"view": 1, "address": "x"}})
            assert again.receive_json() == {"store": {"view": 1, "address": "x"}}
            assert desk.coordinator.registry.workers["w0"].connected
    assert desk.coordinator.registry.lost == []


def test_the_end_of_an_old_connection_is_not_that_of_the_new_one(client: TestClient, desk: Desk) -> None:
    with worker(client) as two, worker(client) as again:
        with worker(client) as one:
            mine = join(one, 0)["joined"]
            join(two, 1)
            again.receive_json()
            again.send_json({"again": mine})
            assert "view" in again.receive_json()
        again.send_json({"store": {"view": 1, "address": "x"}})
        assert again.receive_json() == {"store": {"view": 1, "address": "x"}}, "one sender, one queue"
        assert desk.coordinator.registry.workers["w0"].connected


def test_a_worker_that_did_not_hear_the_answer_joins_again(client: TestClient, desk: Desk) -> None:
    with worker(client) as two:
        with worker(client) as one:
            answer = join(one, 0)
        with worker(client) as again:
            assert join(again, 0) == answer
            join(two, 1)
            assert "view" in again.receive_json()
            with worker(client) as late:
                assert join(late, 0) == answer
                assert late.receive_json()["view"]["number"] == 1, "the run has begun meanwhile"
    assert desk.coordinator.error is None
    assert [event["event"] for event in desk.store.events()] == ["joined", "joined"]


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("change", [{"pid": 1}, {"address": "elsewhere:1"}, {"slot": 2}])
def test_who_has_no_place_is_refused_and_the_run_goes_on(
    client: TestClient, desk: Desk, begun: bool, change: dict[str, Any]
) -> None:
    with worker(client) as one, worker(client) as two, worker(client) as late:
        join(one, 0)
        if begun:
            join(two, 1)
            assert "view" in one.receive_json()
        late.receive_json()
        late.send_json({"join": {**details(0), **change}})
        assert "w" in late.receive_json()["refused"]
        with pytest.raises(WebSocketDisconnect) as caught:
            late.receive_json()
        assert caught.value.code == 4409
        if not begun:
            join(two, 1)
            assert "view" in one.receive_json()
        one.send_json({"store": {"view": 1, "address": "x"}})
        assert "store" in one.receive_json()
    assert desk.coordinator.phase is Phase.TRAINING
    assert desk.coordinator.error is None


def test_a_process_that_cannot_begin_does_not_end_a_run_that_has(client: TestClient, desk: Desk) -> None:
    with worker(client) as one, worker(client) as two, worker(client) as late:
        join(one, 0)
        join(two, 1)
        late.receive_json()
        late.send_json({"failed": {"message": "no such file: x", "usage": True}, "name": "w0"})
        with pytest.raises(WebSocketDisconnect):
            late.receive_json()
    assert desk.coordinator.phase is Phase.TRAINING


@pytest.mark.parametrize(
    "change",
    [
        {"slot": "0"},
        {"slot": -1},
        {"slot": True},
        {"sizes": None},
        {"sizes": [1, "x"]},
        {"model_bytes": "x"},
        {"pid": 1.5},
        {"digests": ["x"]},
        {"digests": {"trained": 1}},
        {"structure": None},
        {"rounds": 1},
        {"plan": {}},
    ],
    ids=str,
)
def test_half_a_join_leaves_no_trace(client: TestClient, desk: Desk, change: dict[str, Any]) -> None:
    with worker(client) as stranger, worker(client) as one, worker(client) as two:
        stranger.receive_json()
        stranger.send_json({"join": {**details(0, structure="another"), **change}})
        with pytest.raises(WebSocketDisconnect) as caught:
            stranger.receive_json()
        assert caught.value.code == 1003
        join(one, 0)
        join(two, 1)
        assert "view" in one.receive_json()
    assert desk.coordinator.registry.model_bytes == details(0)["model_bytes"]


@pytest.mark.parametrize(
    "message",
    [
        {"dance": 1},
        {"heartbeat": "x"},
        {"heartbeat": 2**70},
        {"done": {}},
        {"done": {"step": 1, "complete": True, "stats": {"steps": "x"}}},
        {"metrics": {"step": 1}},
        {"event": {}},
        {"store": 7},
        {"frozen": None},
        {"result": {"tokens_per_sample": "x"}},
        {"farewell": []},
        {"failed": {}},
    ],
    ids=str,
)
def test_a_malformed_message_closes_its_socket_and_counts_as_a_broken_one(
    client: TestClient, desk: Desk, message: dict[str, Any]
) -> None:
    with worker(client) as one, worker(client) as two:
        join(one, 0)
        join(two, 1)
        for socket in (one, two):
            assert "view" in socket.receive_json()
        one.send_json(message)
        with pytest.raises(WebSocketDisconnect) as caught:
            one.receive_json()
        assert caught.value.code == 1003
        assert not desk.coordinator.registry.workers["w0"].connected
        two.send_json({"done": {"step": 1, "complete": True, "stats": {}}})
        two.send_json({"store": {"view": 1, "address": "x"}})
        assert "store" in two.receive_json()


def test_a_message_that_is_too_long_closes_its_socket(client: TestClient) -> None:
    with worker(client) as one:
        join(one, 0)
        one.send_json({"event": {"event": "x" * MESSAGE_BYTES_MAX}})
        with pytest.raises(WebSocketDisconnect) as caught:
            one.receive_json()
        assert caught.value.code == 1009


@pytest.mark.parametrize("claim", [{"worker": "w0", "incarnation": 9}, {"worker": "w7", "incarnation": 1}])
def test_nobody_comes_back_as_somebody_else(client: TestClient, desk: Desk, claim: dict[str, Any]) -> None:
    with worker(client) as one, worker(client) as two:
        join(one, 0)
        with worker(client) as other:
            other.receive_json()
            other.send_json({"again": claim})
            other.send_json({"heartbeat": 99})
        join(two, 1)
        assert "view" in one.receive_json()
    assert {name: known.step for name, known in desk.coordinator.registry.workers.items()} == {"w0": 0, "w1": 0}
