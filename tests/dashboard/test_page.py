"""The page in a real browser: what it shows, what it asks before it does something, and that it fits a phone."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from starlette.requests import HTTPConnection

from roadtrain.dashboard.broadcast import Broadcast
from roadtrain.dashboard.origin import OwnOriginOnly
from roadtrain.dashboard.routes import bearer, watching_router
from roadtrain.dashboard.series import Series
from roadtrain.dashboard.watched import Rows

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
TOTALS = {"samples": 320.0, "bytes_sent": 2.5e6, "compute_s": 30.0, "sync_wait_s": 10.0, "feed_wait_s": 0.0}


def lines(worker: str) -> Iterator[dict[str, Any]]:
    for step in range(1, 21):
        done = {name: value * step / 20 for name, value in TOTALS.items()}
        yield {"worker": worker, "time_s": 2.0 * step, "step": step, "loss": 2 / step, **done}


class Shown:
    """A fleet of three machines in two regions, on which one run goes on and one has ended."""

    def __init__(self) -> None:
        self.broadcast = Broadcast()
        self.stopped: list[str] = []

    def machines(self) -> Rows:
        common = {"host": "10.0.0.1", "devices": 1, "kind": "cuda", "takes_code": True}
        return [{"machine": name, "state": "busy", **common} for name in ("desk", "lab", "rented")]

    def workers(self, run: str | None = None) -> Rows:
        common = {"run": "run-b", "state": "active", "alive": True, "waits": False, "staleness": 0.5, "rtt_ms": 12.5}
        return [
            {"id": f"w{slot}", "slot": slot, "machine": machine, "step": 20 - slot, "loss": 0.1, **common, **TOTALS}
            for slot, machine in enumerate(("desk", "lab", "rented"))
        ]

    def runs(self) -> Rows:
        common = {"target": "/home/me/train.py:make", "sync": "diloco:50", "steps": 100, "lost": 0, "submitted": 1.0}
        slow = "w2's uplink carries 9 of 10 Mbit/s"
        return [
            {"run": "run-a", "status": "finished", "workers": 0, "step": 100, "loss": 0.01, **common},
            {"run": "run-b", "status": "running", "workers": 3, "step": 18, "loss": 0.1, "bottleneck": slow, **common},
        ]

    def links(self, most: int | None = None) -> Rows:
        return []

    def regions(self) -> Rows:
        return [{"run": "run-b", "region": "r0", "workers": ["w0", "w1"]}]

    def machine_links(self, most: int | None = None) -> Rows:
        return [{"from": "desk", "to": "rented", "via": "relay", "rtt_ms": 45.2, "mb_per_s": 1.25, "run": None}]

    def machine_regions(self) -> Rows:
        return [{"region": "r0", "machines": ["desk", "lab"]}, {"region": "r1", "machines": ["rented"]}]

    def series(self, run: str) -> Series:
        every = [line for worker in ("w0", "w1", "w2") for line in lines(worker)]
        return Series(sorted(every, key=lambda line: line["time_s"]))

    def events(self, run: str, after: int) -> Rows:
        return [] if after else [{"id": 1, "event": "joined", "worker": "w0", "pid": 7, "time_s": 0.5}]


class Mine:
    def look(self, connection: HTTPConnection) -> None:
        if bearer(connection) != "Bearer mine":
            raise HTTPException(403, "the coordinator does not know the ticket")


@pytest.fixture
def shown() -> Shown:
    return Shown()


@pytest.fixture
def address(shown: Shown) -> Iterator[str]:
    app, gate = FastAPI(docs_url=None, redoc_url=None, openapi_url=None), Mine()
    app.add_middleware(OwnOriginOnly)
    app.include_router(watching_router(shown, gate))

    @app.post("/api/runs/{run}/stop")
    async def stop(request: Request, run: str) -> None:
        gate.look(request)
        shown.stopped.append(run)

    @app.post("/api/tokens")
    async def token(request: Request) -> dict[str, str]:
        gate.look(request)
        return {"id": "1", "ticket": "rt1abc"}

    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_level="critical", ws="websockets-sansio", timeout_graceful_shutdown=0)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.should_exit = True
        thread.join(5)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield made
        made.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    made = browser.new_page(viewport={"width": 1280, "height": 900})
    made.set_default_timeout(10_000)
    made.faults = []
    made.on("pageerror", lambda error: made.faults.append(str(error)))
    yield made
    assert made.faults == []
    made.close()


def test_a_fleet_at_a_glance_and_what_happens_in_it(page: Any, address: str, shown: Shown) -> None:
    page.goto(f"{address}#mine")
    page.get_by_text("live", exact=True).wait_for()
    assert "mine" not in page.url, "the ticket does not stay in the address"
    rows = page.locator("#runs tbody tr").all_inner_texts()
    assert [row.split()[0] for row in rows] == ["run-b", "run-a"], "the newest first"
    assert "18 of 100" in rows[0]
    assert page.locator("#workers tbody tr").count() == 3
    assert page.locator("#slows").inner_text() == "What slows it: w2's uplink carries 9 of 10 Mbit/s."
    assert page.locator(".region").all_inner_texts()[1].startswith("r1")
    assert "45.2 · 1.25 *" in page.locator("#matrix").inner_text()
    assert "Loss against time; newest: 0.1" in page.locator("#curves [role=img]").first.get_attribute("aria-label")
    assert "w0 computes 75%" in page.locator("#timeline").get_attribute("aria-label")
    assert "w0 joined" in page.locator("#events").inner_text()
    for listener in shown.broadcast._listeners:  # pyright: ignore[reportPrivateUsage]
        listener.tell(json.dumps({"event": "lost", "worker": "<b>w1</b>", "time_s": 9.0}))
    page.locator("#events li", has_text="was lost").wait_for()
    assert "<b>w1</b>" in page.locator("#events li").first.inner_text(), "names are text, not markup"


def test_two_runs_are_compared_against_steps(page: Any, address: str) -> None:
    page.goto(f"{address}#mine")
    page.get_by_label("show run-a").check()
    page.get_by_label("steps").check()
    page.locator("figcaption", has_text="run-b: 0.1, run-a: 0.1").wait_for()


def test_nothing_is_stopped_without_a_question(page: Any, address: str, shown: Shown) -> None:
    page.goto(f"{address}#mine")
    page.get_by_label("stop run-b").click()
    assert "Stop run-b?" in page.locator("#sure").inner_text()
    page.keyboard.press("Enter")  # what has the focus is No
    assert shown.stopped == []
    page.get_by_label("stop run-b").focus()
    page.keyboard.press("Enter")
    page.locator("#sure-yes").focus()
    with page.expect_response("**/stop"):
        page.keyboard.press("Enter")
    assert shown.stopped == ["run-b"]


def test_who_has_no_ticket_is_asked_for_one(page: Any, address: str) -> None:
    page.goto(address)
    for word in ("wrong", "mine"):
        page.get_by_label("A ticket of this coordinator").fill(word)
        page.keyboard.press("Enter")
        if word == "wrong":
            page.get_by_text("does not know the ticket").wait_for()
    page.locator("#runs tbody tr").first.wait_for()
    page.get_by_text("Make a join line").click()
    page.get_by_text("roadtrain join rt1abc").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_room_for_it(page: Any, address: str, scheme: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{address}#mine")
    page.locator("#workers tbody tr").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    background = page.evaluate("getComputedStyle(document.body).color")
    assert (background == "rgb(0, 0, 0)") == (scheme == "light")


def test_curves_are_of_all_workers_however_few_have_spoken(page: Any, address: str) -> None:
    """Three workers that compute for three quarters of their time, and whose lines come one after the other."""
    page.goto(f"{address}#mine")
    utilisation = page.locator("figcaption", has_text="Utilisation")
    utilisation.wait_for()
    assert utilisation.inner_text() == "Utilisation 75%"
    rate = page.locator("figcaption", has_text="Samples each second").inner_text().split()[-1]
    assert float(rate) == pytest.approx(3 * TOTALS["samples"] / 40, rel=0.1)
