"""The page, and what a monitor and a browser ask for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocketDisconnect

from roadtrain.dashboard.broadcast import Broadcast
from roadtrain.dashboard.origin import OwnOriginOnly
from roadtrain.dashboard.routes import PAGE, bearer, watching_router
from roadtrain.dashboard.series import Series
from roadtrain.dashboard.watched import Rows

HEADERS = {"authorization": "Bearer mine"}
WORKER = {
    "run": "r",
    "id": "w0",
    "state": "active",
    "step": 7,
    "loss": float("nan"),
    "samples": 56.0,
    "bytes_sent": 1e6,
}


class Shown:
    """A run of one worker."""

    def __init__(self) -> None:
        self.broadcast = Broadcast()

    def machines(self) -> Rows:
        return [{"machine": "m", "state": "busy"}]

    def workers(self, run: str | None = None) -> Rows:
        return [WORKER]

    def runs(self) -> Rows:
        return [{"run": "r", "status": "running", "lost": 2}, {"run": "s", "status": "queued", "lost": 0}]

    def links(self, most: int | None = None) -> Rows:
        return []

    def regions(self) -> Rows:
        return [{"run": "r", "region": "r0", "workers": ["w0"]}]

    def machine_links(self, most: int | None = None) -> Rows:
        return []

    def machine_regions(self) -> Rows:
        return [{"region": "r0", "machines": ["m"]}]

    def series(self, run: str) -> Series:
        return Series()

    def events(self, run: str, after: int) -> Rows:
        return []


class Mine:
    """Lets in whoever says so."""

    open = True

    def look(self, connection: HTTPConnection) -> None:
        if not self.open or bearer(connection) != "Bearer mine":
            raise HTTPException(401, "no")


@pytest.fixture
def shown() -> Shown:
    return Shown()


@pytest.fixture
def client(shown: Shown) -> TestClient:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(watching_router(shown, Mine()))
    app.add_middleware(OwnOriginOnly)

    @app.post("/change")
    async def change() -> str:
        return "done"

    return TestClient(app)


def test_figures_for_prometheus(client: TestClient) -> None:
    answer = client.get("/metrics", headers=HEADERS)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples["roadtrain_steps_total", "r", "w0"] == 7
    assert samples["roadtrain_sent_bytes_total", "r", "w0"] == 1e6
    assert samples["roadtrain_lost_workers_total", "r"] == 2
    assert samples["roadtrain_runs", "queued"] == 1
    assert ("roadtrain_compute_seconds_total", "r", "w0") not in samples, "it has not said any"


def test_a_loss_that_is_no_number_is_null(client: TestClient) -> None:
    assert client.get("/workers", headers=HEADERS).json()[0]["loss"] is None


def test_the_description_is_behind_the_gate_and_lists_what_there_is(client: TestClient) -> None:
    assert client.get("/openapi.json").status_code == 401
    paths = client.get("/openapi.json", headers=HEADERS).json()["paths"]
    assert {"/health", "/workers", "/regions", "/runs", "/metrics", "/machines", "/links"} <= paths.keys()
    assert all(said.get("description") for path in paths if path != "/change" for said in paths[path].values())


def test_the_page_is_open_and_all_that_it_loads_is_here(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for path in PAGE.rglob("*"):
        if path.suffix in (".js", ".css"):
            answer = client.get(f"/page/{path.relative_to(PAGE).as_posix()}")
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/")


@pytest.mark.parametrize(
    "name", ["../routes.py", "%2e%2e/routes.py", "..%2f..%2f__init__.py", "nothing.js", "a%00b", ""]
)
def test_nothing_else_is(client: TestClient, name: str) -> None:
    assert client.get(f"/page/{name}").status_code == 404


# ------------------------------------------------------------------------------------------------------- events


def heard(socket: Any) -> dict[str, Any]:
    return json.loads(socket.receive_text())


@pytest.mark.parametrize(
    "way",
    [
        {"headers": HEADERS},
        {"subprotocols": ["roadtrain", "bearer.mine"]},
        {"headers": {**HEADERS, "origin": "http://testserver"}},
    ],
)
def test_what_happens_comes_over_the_socket(client: TestClient, shown: Shown, way: dict[str, Any]) -> None:
    with client.websocket_connect("/ws/events", **way) as socket:
        while not shown.broadcast._listeners:  # pyright: ignore[reportPrivateUsage]
            pass
        shown.broadcast.publish({"event": "joined", "worker": "w0", "loss": float("inf")})
        assert heard(socket) == {"event": "joined", "worker": "w0", "loss": None}


@pytest.mark.parametrize(
    "way",
    [
        {},
        {"headers": {"authorization": "Bearer other"}},
        {"subprotocols": ["roadtrain", "bearer.other"]},
        {"headers": {**HEADERS, "origin": "https://evil.example"}},
        {"headers": {**HEADERS, "origin": "null"}},
        {"headers": {**HEADERS, "origin": "http://testserver.evil.example"}},
    ],
)
def test_others_hear_nothing(client: TestClient, way: dict[str, Any]) -> None:
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws/events", **way):
        pass


def test_who_may_look_no_longer_is_hung_up_on(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadtrain.dashboard.routes.CHECK_S", 0.05)
    with client.websocket_connect("/ws/events", headers=HEADERS) as socket:
        monkeypatch.setattr(Mine, "open", False)
        with pytest.raises(WebSocketDisconnect):
            socket.receive_text()


@pytest.mark.parametrize(
    ("origin", "status"), [(None, 200), ("http://testserver", 200), ("https://evil.example", 403), ("null", 403)]
)
def test_a_page_of_another_site_changes_nothing(client: TestClient, origin: str | None, status: int) -> None:
    answer = client.post("/change", headers={} if origin is None else {"origin": origin})
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers
