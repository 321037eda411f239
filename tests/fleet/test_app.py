"""The coordinator's app: what it tells whom, and what it does with those who do not belong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from people import details
from starlette.websockets import WebSocketDisconnect
from talk import SPEC, Talk

from roadtrain.dashboard.broadcast import Broadcast
from roadtrain.fleet.app import make_app
from roadtrain.fleet.close_codes import MALFORMED, OVER, TOO_LONG, WRONG_VERSION
from roadtrain.fleet.sessions import FRAME_BYTES_MAX, Sessions
from roadtrain.fleet.store import Store
from roadtrain.fleet.watched_run import page_token
from roadtrain.membership.coordinator import Coordinator
from roadtrain.membership.frames import PROTOCOL
from roadtrain.membership.messages import (
    Accepted,
    Done,
    Failed,
    Happened,
    Links,
    Metrics,
    Refused,
    Rendezvous,
    RunSpec,
)
from roadtrain.membership.phase import Phase
from roadtrain.membership.registry import Registry
from roadtrain.view import LinkState, Via
from roadtrain.wire.credentials import Credentials

MINE = Credentials("token", secure=False)
HEADERS = {**dict(MINE.metadata), "cache-control": "no-cache"}


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[Sessions]:
    """Of a run of two workers."""
    store = Store(":memory:", tmp_path)
    yield Sessions(Coordinator(Registry(2)), store, MINE, SPEC, Broadcast())
    store.close()


@pytest.fixture
def client(sessions: Sessions) -> Iterator[TestClient]:
    with TestClient(make_app(sessions)) as made:
        yield made


@contextmanager
def line(client: TestClient, process: str, said: int = 0, heard: int = 0) -> Iterator[Talk]:
    with client.websocket_connect("/api/worker", headers=HEADERS) as socket:
        yield Talk(socket.send_bytes, socket.receive_bytes, process, said, heard)


def begin(one: Talk, two: Talk) -> None:
    """Both join; the run begins."""
    for slot, talk in enumerate((one, two)):
        talk.join(details(slot, talk.process))
    for slot, talk in enumerate((one, two)):
        assert talk.hear(Accepted) == Accepted(f"w{slot}", slot + 1)
        assert talk.view().view.number == 1


def lives(talk: Talk) -> None:
    """All before it has been heard, and the run goes on."""
    talk.say(Rendezvous(1, 0, "x"))
    assert talk.hear_until(Rendezvous) == Rendezvous(1, 0, "x")


# ------------------------------------------------------------------------------------------------------- people


def test_health_is_for_everybody(client: TestClient) -> None:
    answer = client.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")


@pytest.mark.parametrize("path", ["/runs", "/workers", "/metrics", "/openapi.json", "/api/runs/a run/series"])
@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer guess"}, {"authorization": "token"}])
def test_everything_else_wants_the_token(client: TestClient, path: str, headers: dict[str, str]) -> None:
    assert client.get(path, headers=headers).status_code == 401
    assert client.get(path, headers=HEADERS).status_code == 200
    assert client.get(path, headers={"authorization": f"Bearer {page_token(MINE)}"}).status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_nothing_tells_strangers_what_there_is(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_the_state_of_a_run(client: TestClient, sessions: Sessions) -> None:
    (run,) = client.get("/runs", headers=HEADERS).json()
    assert (run["phase"], run["workers"], run["lost"]) == ("gathering", 2, 0)
    assert client.get("/workers", headers=HEADERS).json() == []
    with line(client, "a") as one, line(client, "b") as two:
        begin(one, two)
        two.say(Metrics(3, 0.5, {"samples": 96, "compute_s": 1.5}))
        two.beat(4, waits=True)
        lives(two)
        (run,) = client.get("/runs", headers=HEADERS).json()
        assert (run["phase"], run["workers"], run["step"], run["loss"]) == ("training", 2, 0, 0.5)
        shown = client.get("/workers", headers=HEADERS).json()
        assert [(w["id"], w["host"], w["step"], w["state"], w["waits"]) for w in shown] == [
            ("w0", "host0", 0, "active", False),
            ("w1", "host1", 4, "active", True),
        ]
        assert (shown[1]["loss"], shown[1]["samples"], shown[1]["compute_s"]) == (0.5, 96, 1.5)
        events = client.get("/api/runs/a run/events", headers=HEADERS).json()
        assert [(event["event"], event["worker"]) for event in events] == [("joined", "w0"), ("joined", "w1")]
        assert client.get("/api/runs/a run/events?after=1", headers=HEADERS).json() == events[1:]
        columns = client.get("/api/runs/a run/series", headers=HEADERS).json()
        assert (columns["step"], columns["loss"], columns["samples"]) == ([3], [0.5], [96])
        recent = client.get("/api/runs/a run/recent", headers=HEADERS).json()
        assert recent["w1"]["step"] == [3]
        for wrong in ("/api/runs/other/series", "/api/runs/other/events"):
            assert client.get(wrong, headers=HEADERS).status_code == 404
        assert client.get("/api/runs/a run/events?after=-1", headers=HEADERS).status_code == 422


def test_a_run_is_stopped_from_its_page(client: TestClient, sessions: Sessions) -> None:
    with line(client, "a") as one, line(client, "b") as two:
        begin(one, two)
        assert client.post("/api/runs/a run/stop").status_code == 401
        assert client.post("/api/runs/other/stop", headers=HEADERS).status_code == 404
        assert sessions.coordinator.phase is Phase.TRAINING
        assert client.post("/api/runs/a run/stop", headers=HEADERS).status_code == 200
        assert sessions.coordinator.phase is Phase.STOPPING


def test_the_links_of_a_run_are_those_that_workers_told_of_last(client: TestClient, sessions: Sessions) -> None:
    assert client.get("/links", headers=HEADERS).json() == []
    with line(client, "a") as one, line(client, "b") as two:
        begin(one, two)
        one.say(Links({"w1": LinkState(Via.DIRECT, None, None)}))
        one.say(Links({"w1": LinkState(Via.RELAY, 20.5, 11.75), "w9": LinkState(Via.DIRECT, 1.0, 1.0)}))
        lives(one)
        assert client.get("/links", headers=HEADERS).json() == [
            {"run": "a run", "from": "w0", "to": "w1", "via": "relay", "rtt_ms": 20.5, "mb_per_s": 11.75}
        ]


def test_the_regions_of_a_run_follow_from_its_round_trips(client: TestClient, sessions: Sessions) -> None:
    assert client.get("/regions", headers=HEADERS).json() == []
    with line(client, "a") as one, line(client, "b") as two:
        begin(one, two)
        assert client.get("/regions", headers=HEADERS).json() == [
            {"run": "a run", "region": "r0", "workers": ["w0"]},
            {"run": "a run", "region": "r1", "workers": ["w1"]},
        ], "nothing is known"
        one.say(Links({"w1": LinkState(Via.DIRECT, 20.5, 11.75)}))
        lives(one)
        regions = client.get("/regions", headers=HEADERS).json()
        assert regions == [{"run": "a run", "region": "r0", "workers": ["w0", "w1"]}]


def test_workers_meet_at_the_coordinator_with_the_runs_token(client: TestClient) -> None:
    with client.websocket_connect("/relay/wait?peer=w0&incarnation=1", headers=HEADERS) as waiting:
        with client.websocket_connect("/relay/dial?peer=w0", headers=HEADERS):
            assert waiting.receive_text() == "1"
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/relay/dial?peer=w0"):
        ...


# ------------------------------------------------------------------------------------------------------ workers


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer guess"}])
def test_a_worker_without_the_token_is_refused_and_the_person_hears_of_it(
    client: TestClient, sessions: Sessions, headers: dict[str, str]
) -> None:
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/api/worker", headers=headers):
        pass
    assert sessions.coordinator.registry.workers == {}
    assert sessions.coordinator.warnings == ["a worker was refused: it has another token"]


def test_another_version_is_refused_with_a_line_on_both_sides(client: TestClient, sessions: Sessions) -> None:
    with line(client, "a") as one:
        with pytest.raises(WebSocketDisconnect) as closed:
            one.hello(protocol=PROTOCOL + 1)
    assert closed.value.code == WRONG_VERSION
    assert "roadtrain" in closed.value.reason
    (warning,) = sessions.coordinator.warnings
    assert closed.value.reason in warning


def test_nobody_comes_to_a_run_that_is_over(client: TestClient, sessions: Sessions) -> None:
    sessions.coordinator.interrupt(0.0)
    assert sessions.coordinator.phase is Phase.OVER
    with line(client, "a") as one, pytest.raises(WebSocketDisconnect) as closed:
        one.hello()
    assert closed.value.code == OVER


def test_a_worker_that_cannot_begin_ends_the_run(client: TestClient, sessions: Sessions) -> None:
    with line(client, "a") as one:
        one.hello()
        one.hear(RunSpec)
        one.say(Failed("no such file: x", usage=True, worker="w0"))
        with pytest.raises(WebSocketDisconnect):
            one.frame()
    assert sessions.coordinator.phase is Phase.OVER
    assert sessions.coordinator.error is not None
    assert sessions.coordinator.error.message == "no such file: x"


def test_a_worker_whose_connection_broke_goes_on_where_it_was(client: TestClient, sessions: Sessions) -> None:
    """What was said meanwhile comes then, and what was heard twice counts once."""
    with line(client, "b") as two:
        with line(client, "a") as one:
            begin(one, two)
            one.say(Happened("before"))
            lives(two)
        two.say(Rendezvous(1, 7, "meanwhile"))
        assert two.hear_until(Rendezvous) == Rendezvous(1, 7, "meanwhile")
        with line(client, "a", one.said, one.heard) as back:
            welcome = back.hello()
            assert (welcome.fresh, welcome.heard) == (False, one.said)
            back.say(Happened("before"), number=one.said)
            back.say(Happened("after"), number=one.said + 1)
            assert [back.hear(Rendezvous).address for _ in range(2)] == ["x", "meanwhile"]
            lives(back)
            assert sessions.coordinator.registry.workers["w0"].gone_s is None
    assert sessions.coordinator.registry.lost == []
    events = [event["event"] for event in sessions.store.events() if event["event"] in ("before", "after")]
    assert events == ["before", "after"]


def test_the_end_of_an_old_connection_is_not_that_of_the_new_one(client: TestClient, sessions: Sessions) -> None:
    with line(client, "b") as two:
        with line(client, "a") as one:
            begin(one, two)
            with line(client, "a", one.said, one.heard) as back:
                assert not back.hello().fresh
                lives(back)
                assert sessions.coordinator.registry.workers["w0"].gone_s is None


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("slot", [0, 2])
def test_who_has_no_place_is_refused_and_the_run_goes_on(
    client: TestClient, sessions: Sessions, begun: bool, slot: int
) -> None:
    with line(client, "a") as one, line(client, "b") as two, line(client, "c") as late:
        if begun:
            begin(one, two)
        else:
            one.join(details(0, "a"))
            one.hear(Accepted)
        late.join(details(slot, "c"))
        assert f"w{slot}" in late.hear(Refused).reason
        if not begun:
            two.join(details(1, "b"))
            one.view()
        lives(one)
    assert sessions.coordinator.phase is Phase.TRAINING
    assert sessions.coordinator.error is None


def test_a_process_that_cannot_begin_does_not_end_a_run_that_has(client: TestClient, sessions: Sessions) -> None:
    with line(client, "a") as one, line(client, "b") as two, line(client, "c") as late:
        begin(one, two)
        late.hello()
        late.say(Failed("no such file: x", usage=True, worker="w0"))
        lives(one)
    assert sessions.coordinator.phase is Phase.TRAINING


def test_nobody_joins_in_the_name_of_another_process(client: TestClient, sessions: Sessions) -> None:
    with line(client, "a") as one:
        one.join(details(0, "b"))
        with pytest.raises(WebSocketDisconnect) as closed:
            one.frame()
    assert closed.value.code == MALFORMED
    assert sessions.coordinator.registry.workers == {}


def test_who_has_not_joined_has_nothing_to_say(client: TestClient, sessions: Sessions) -> None:
    with line(client, "a") as one:
        one.hello()
        one.hear(RunSpec)
        one.say(Done(1, True, {}))
        with pytest.raises(WebSocketDisconnect) as closed:
            one.frame()
    assert closed.value.code == MALFORMED
    assert "Done before Join" in closed.value.reason


def test_a_message_that_is_missing_closes_the_connection(client: TestClient, sessions: Sessions) -> None:
    with line(client, "a") as one, line(client, "b") as two:
        begin(one, two)
        one.say(Happened("x"), number=one.said + 2)
        with pytest.raises(WebSocketDisconnect) as closed:
            one.frame()
        assert closed.value.code == MALFORMED
        assert sessions.coordinator.registry.workers["w0"].gone_s is not None
        lives(two)


def test_a_frame_that_is_too_long_closes_its_socket(client: TestClient) -> None:
    with line(client, "a") as one:
        one.join(details(0, "a"))
        one.hear(Accepted)
        one.say(Happened("x" * FRAME_BYTES_MAX))
        with pytest.raises(WebSocketDisconnect) as closed:
            one.frame()
    assert closed.value.code == TOO_LONG


def test_what_is_wrong_with_one_look_at_the_watch_does_not_stop_the_others(
    client: TestClient, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    stumbles = iter([True])

    def tick(now: float) -> None:
        if next(stumbles, False):
            raise ValueError("a fault of ours")
        ticked.append(now)

    ticked: list[float] = []
    monkeypatch.setattr(sessions.control, "tick", tick)
    with line(client, "a") as one:
        one.hello()
        while not ticked:
            one.beat(1)
    assert sessions.coordinator.warnings == ["the coordinator stumbled: ValueError: a fault of ours"]
