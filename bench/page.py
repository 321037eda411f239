"""What the page takes of a browser when a run of 200 workers has gone on for 24 hours, and goes on: time until it is painted and
until its curves are there, and memory, at first and after some minutes.

    bench/page.py [--workers N] [--hours H] [--minutes M]

The lines of metrics, one of each worker every ten seconds, are in a database as a coordinator leaves it behind, and are read as
it reads them; while the page is open each worker says a line every second. Needs
Chromium in the PATH.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.requests import HTTPConnection
from websockets.sync.client import ClientConnection, connect

from roadtrain.dashboard.broadcast import Broadcast
from roadtrain.dashboard.routes import watching_router
from roadtrain.dashboard.series import Series
from roadtrain.dashboard.watched import Rows
from roadtrain.fleet.records import DATABASE, read_lines
from roadtrain.fleet.store import INSERT, Store

EVERY_S = 10.0
RUN = "run-of-a-day"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--window-size=1280,900"]
FLAGS += ["--enable-precise-memory-info", "--js-flags=--expose-gc"]
TIMES = "[performance.getEntriesByName('first-contentful-paint')[0].startTime, performance.now()]"
"""Milliseconds since the page was asked for."""


def fill(folder: Path, workers: int, hours: float) -> int:
    """A coordinator's database of that run; how many lines it has."""
    Store(str(folder / DATABASE), None).close()
    steps = int(hours * 3600 / EVERY_S)

    def lines() -> Iterator[tuple[Any, ...]]:
        for step in range(1, steps + 1):
            for worker in range(workers):
                done = step * EVERY_S
                yield (
                    done,
                    f"w{worker}",
                    step,
                    3 / step + 0.1,
                    None,
                    step * 32,
                    0,
                    0.8 * done,
                    0.2 * done,
                    0,
                    step * 1e5,
                    0,
                )

    with sqlite3.connect(folder / DATABASE) as database:
        database.executemany(INSERT, lines())
    return steps * workers


class Day:
    """That run, and the machines it is on."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.broadcast = Broadcast()
        self.workers_there = workers
        self.course = Series(read_lines(folder))

    def machines(self) -> Rows:
        common = {"host": "10.0.0.1", "devices": 1, "kind": "cuda", "takes_code": True, "state": "busy"}
        return [{"machine": f"m{number}", **common} for number in range(self.workers_there)]

    def workers(self, run: str | None = None) -> Rows:
        common = {"run": RUN, "state": "active", "alive": True, "waits": False, "staleness": 0.5, "rtt_ms": 12.5}
        lanes = self.course.lanes
        return [
            {"id": name, "slot": slot, "machine": f"m{slot}", **common, **lane.totals, "step": lane.newest["step"]}
            for slot, (name, lane) in enumerate(lanes.items())
        ]

    def runs(self) -> Rows:
        run = {"run": RUN, "status": "running", "workers": self.workers_there, "step": 8640, "loss": 0.1, "lost": 0}
        return [{**run, "target": "gpt", "sync": "diloco:50", "steps": 100_000, "submitted": 1.0}]

    def links(self, most: int | None = None) -> Rows:
        return []

    def regions(self) -> Rows:
        return []

    def machine_links(self, most: int | None = None) -> Rows:
        names = [f"m{number}" for number in range(min(self.workers_there, most or self.workers_there))]
        common = {"via": "direct", "rtt_ms": 45.2, "mb_per_s": 1.25, "run": None}
        return [{"from": one, "to": other, **common} for one in names for other in names if one != other]

    def machine_regions(self) -> Rows:
        names = [f"m{number}" for number in range(self.workers_there)]
        return [{"region": f"r{first}", "machines": names[first : first + 20]} for first in range(0, len(names), 20)]

    def series(self, run: str) -> Series:
        return self.course

    def events(self, run: str, after: int) -> Rows:
        return [] if after else [{"id": 1, "event": "joined", "worker": "w0", "time_s": 0.5}]

    async def go_on(self) -> None:
        """A line of each worker every second."""
        began = time.monotonic()
        while True:
            await asyncio.sleep(1)
            since_s = time.monotonic() - began
            for name, lane in self.course.lanes.items():
                before = lane.newest["time_s"]
                line = {
                    "worker": name,
                    "time_s": before + 1,
                    "step": lane.newest["step"] + 1,
                    "loss": 0.1 + 1 / since_s,
                }
                self.course.take({**line, "bytes_sent": lane.newest["bytes_sent"] + 1e5})
                self.broadcast.publish({"event": "metrics", **line})


class Everybody:
    """Lets everybody look."""

    def look(self, connection: HTTPConnection) -> None:
        """As in `Gate`."""


@contextmanager
def served(day: Day) -> Iterator[str]:
    """The address of its page."""

    @contextmanager
    def listener() -> Iterator[socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as made:
            yield made

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(watching_router(day, Everybody()))
    with listener() as at:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="websockets-sansio"))

        async def serve() -> None:
            going = asyncio.create_task(day.go_on())
            await server.serve(sockets=[at])
            going.cancel()

        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{at.getsockname()[1]}/#ticket"
        server.should_exit = True
        thread.join(5)


class Chromium:
    """A browser at `address`, spoken to by its debugging protocol alone: what drives browsers for tests has them keep answers."""

    def __init__(self, address: str, folder: Path) -> None:
        assert CHROMIUM is not None, "Chromium is wanted in the PATH"
        words = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}", address]
        self._process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        port = next(found[1] for line in self._process.stderr if (found := re.search(r"ws://127.0.0.1:(\d+)/", line)))
        threading.Thread(target=self._process.stderr.read, daemon=True).start()
        where = f"http://127.0.0.1:{port}/json"
        page = next(each for each in _json(where) if each["type"] == "page")
        self._sockets = ExitStack()
        browser = connect(_json(f"{where}/version")["webSocketDebuggerUrl"], max_size=None)
        self._browser = self._sockets.enter_context(browser)
        self._page = self._sockets.enter_context(connect(page["webSocketDebuggerUrl"], max_size=None))

    def evaluate(self, expression: str) -> Any:
        """Of JavaScript in the page."""
        said = {"expression": expression, "returnByValue": True}
        return _ask(self._page, "Runtime.evaluate", said)["result"].get("value")

    def memory_mb(self) -> tuple[float, float]:
        """Of the page's objects once garbage is gone, and of its process without what it shares, in 1e6 bytes."""
        heap = self.evaluate("gc(); performance.memory.usedJSHeapSize") / 1e6
        processes = _ask(self._browser, "SystemInfo.getProcessInfo", {})["processInfo"]
        return heap, max(_private_mb(each["id"]) for each in processes if each["type"] == "renderer")

    def close(self) -> None:
        """End it."""
        self._sockets.close()
        self._process.terminate()
        self._process.wait()


def _json(address: str) -> Any:
    with urllib.request.urlopen(address) as answer:
        return json.load(answer)


def _ask(socket: ClientConnection, method: str, params: dict[str, Any]) -> dict[str, Any]:
    socket.send(json.dumps({"id": 1, "method": method, "params": params}))
    while "id" not in (said := json.loads(socket.recv())):
        pass
    return said["result"]


def _private_mb(pid: int) -> float:
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith("Private_")) * 1024 / 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--minutes", type=float, default=3.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        count = fill(Path(name), given.workers, given.hours)
        began = time.monotonic()
        day = Day(Path(name), given.workers)
        print(
            f"{given.workers} workers, {given.hours:.0f} h, {count:,} lines, read in {time.monotonic() - began:.1f} s\n"
        )
    with served(day) as address, tempfile.TemporaryDirectory() as name:
        browser = Chromium(address, Path(name))
        while not browser.evaluate("document.querySelectorAll('#curves canvas').length"):
            time.sleep(0.02)
        assert not browser.evaluate("document.hidden"), "a page that nobody sees asks for nothing"
        paint, drawn = browser.evaluate(TIMES)
        print(f"| first paint | {paint / 1000:.2f} s |\n|---|---|\n| curves | {drawn / 1000:.2f} s |", flush=True)
        for minute in range(round(given.minutes) + 1):
            heap, own = browser.memory_mb()
            assert browser.evaluate("document.getElementById('standing').textContent") == "live" or not minute
            print(f"| after {minute} min: objects, process | {heap:.0f} MB, {own:.0f} MB |", flush=True)
            if minute < round(given.minutes):
                time.sleep(60)
        browser.close()


if __name__ == "__main__":
    main()
