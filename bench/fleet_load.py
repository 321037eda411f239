"""A fleet's coordinator on one core under load: `make bench-fleet`.

    bench/fleet_load.py [--machines N] [--devices N] [--runs N] [--pages N] [--beat S] [--seconds S] [--first]
        [--profile FILE --spy PY-SPY]

By default 2,000 workers in 20 runs, on 250 machines with 8 devices each, and 50 pages open. Workers beat every second, as
real ones do, and push a line of metrics every 10 s; machines say every second what runs there, and measure the ways between them;
pages hear all that happens and ask for their tables every 2 s. The coordinator is the command itself, on a core of its own where
the system lets one choose; all others are played by this process, on another.

A heartbeat's round trip is what the two ends say of it: from one end's clock to the other's and back, without the time for which
the answer waits for the next beat, so with the queues in both ends, this process's too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from crowd import Machine, Page, Worker
from roadtrain.fleet.tls_buffers import use_small_tls_buffers
from roadtrain.launch.run_request import RunRequest
from roadtrain.orchestrate.connection import Connection
from roadtrain.orchestrate.machine import PROTOCOL, REPORT_S, JoinRequest, Taken
from roadtrain.orchestrate.submission import Submission
from roadtrain.orchestrate.ticket import Ticket
from roadtrain.plan import choose, dumps
from roadtrain.version import VERSION

METRICS_S, SLICES = 10.0, 100
SETTLING_S = 10.0
"""After the last worker has come, before anything counts."""
PATIENCE_S = 180.0
GOALS = {"p99": 50.0, "rss": 500.0}


@dataclass
class Crowd:
    """All that is played. `trips_s`: of heartbeats; `looks_s`: of what pages ask for; `events`: that pages heard."""

    given: argparse.Namespace
    connection: Connection
    machines: list[Machine] = field(default_factory=list[Machine])
    pages: list[Page] = field(default_factory=list[Page])
    runs: list[str] = field(default_factory=list[str])
    trips_s: list[float] = field(default_factory=list[float])
    looks_s: list[float] = field(default_factory=list[float])
    lags_s: list[float] = field(default_factory=list[float])

    @property
    def port(self) -> int:
        """The coordinator's."""
        return int(self.connection.address.rpartition(":")[2])

    def workers(self) -> list[Worker]:
        """All of all machines."""
        return [worker for machine in self.machines for worker in machine.workers.values()]

    async def join(self) -> None:
        """Have all machines join."""
        for number in range(self.given.machines):
            asked = JoinRequest(
                protocol=PROTOCOL, version=VERSION, name=f"m{number}", host=f"h{number}", devices=self.given.devices,
                kind="cpu", takes_code=True, listens=True,
            )  # fmt: skip
            taken = msgspec.json.decode(self.connection.ask("POST", "/api/machines", asked), type=Taken)
            context = self.connection.context
            machine = Machine(taken.machine, taken.secret, self.port, context, self.trips_s)
            await machine.socket.connect(self.port, context)
            self.machines.append(machine)

    def submit(self) -> None:
        """Have it begin all runs."""
        for _ in range(self.given.runs):
            workers = self.given.machines * self.given.devices // self.given.runs
            plan = RunRequest.of(choose("xor", [], {}, {("job", "steps"): 1_000_000}), Path()).plan
            asked = Submission(
                version=VERSION, target="xor", plan=dumps(plan), workers=workers, archive="", wants_code=False
            )
            said = self.connection.ask("POST", "/api/runs", asked)
            self.runs.append(msgspec.json.decode(said, type=dict[str, str])["run"])

    def open_pages(self) -> list[asyncio.Task[None]]:
        """Each shows one of the runs."""
        for number in range(self.given.pages):
            self.pages.append(Page(self.connection.authorization, self.runs[number % len(self.runs)], self.looks_s))
        return [asyncio.create_task(page.live(self.port, self.connection.context)) for page in self.pages]

    async def beat(self) -> None:
        """Each worker in its turn, for ever."""
        await self._in_turn(self.given.beat, lambda number: [w.beat() for w in self.workers()[number::SLICES]])

    async def push(self) -> None:
        """As `beat`, metrics."""
        await self._in_turn(METRICS_S, lambda number: [w.push() for w in self.workers()[number::SLICES]])

    async def report(self) -> None:
        """As `beat`, of machines."""
        await self._in_turn(REPORT_S, lambda number: [m.report() for m in self.machines[number::SLICES]])

    async def _in_turn(self, seconds: float, act: object) -> None:
        assert callable(act)
        loop = asyncio.get_running_loop()
        due, number = loop.time(), 0
        while True:
            act(number % SLICES)
            number += 1
            due += seconds / SLICES
            await asyncio.sleep(due - loop.time())
            self.lags_s.append(loop.time() - due)


@contextlib.contextmanager
def coordinator(folder: Path) -> Iterator[tuple[int, Ticket]]:
    """One that serves, on a core of its own; its process and its ticket."""
    words = [
        sys.executable,
        "-m",
        "roadtrain",
        "coordinator",
        "--listen",
        "127.0.0.1:0",
        "--state",
        str(folder),
        "--json",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "coordinator.err").open("wb") as errors:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, env=environment)
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            if hasattr(os, "sched_setaffinity"):
                cores = sorted(os.sched_getaffinity(0))
                for thread in os.listdir(f"/proc/{process.pid}/task"):
                    os.sched_setaffinity(int(thread), cores[:1])
                os.sched_setaffinity(0, cores[1:] or cores)
            yield process.pid, Ticket.parse(said["ticket"])
        finally:
            process.terminate()
            process.wait(30)


@dataclass(frozen=True)
class Used:
    """What a process has used by now: seconds of a processor, and bytes of memory (resident, now)."""

    cpu_s: float
    rss: int

    @classmethod
    def by(cls, pid: int) -> Used:
        """Of Linux; elsewhere nothing is known."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
        return cls((int(fields[11]) + int(fields[12])) / ticks, int(fields[21]) * page)


async def measure(given: argparse.Namespace, pid: int, ticket: Ticket) -> bool:
    """Bring the crowd, let it live, and print what was found. Whether it is as it should be."""
    crowd = Crowd(given, Connection.to(ticket))
    began = time.monotonic()
    empty = Used.by(pid)
    await crowd.join()
    acts = (crowd.beat, crowd.push, crowd.report)
    tasks = [asyncio.create_task(act()) for act in acts]
    joined_s = time.monotonic() - began
    await asyncio.to_thread(crowd.submit)
    wanted = given.machines * given.devices // given.runs * given.runs
    while sum(worker.state.view is not None for worker in crowd.workers()) < wanted:
        _raise_what_ended(tasks)
        if time.monotonic() - began > PATIENCE_S:
            raise SystemExit(f"only {_standing(crowd)} after {PATIENCE_S:.0f} s")
        await asyncio.sleep(0.5)
    trained_s = time.monotonic() - began - joined_s
    tasks += crowd.open_pages()
    await asyncio.sleep(SETTLING_S)
    for figures in (crowd.trips_s, crowd.looks_s, crowd.lags_s):
        figures.clear()
    for page in crowd.pages:
        page.heard = 0
    before, start, own_s = Used.by(pid), time.monotonic(), time.process_time()
    if given.profile:
        spy = [
            given.spy,
            "record",
            "--nonblocking",
            "-p",
            str(pid),
            "-d",
            str(int(given.seconds)),
            "-o",
            given.profile,
            "-f",
            "raw",
        ]
        subprocess.Popen(spy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rss = before.rss
    while time.monotonic() - start < given.seconds:
        await asyncio.sleep(1)
        rss = max(rss, Used.by(pid).rss)
    after, seconds = Used.by(pid), time.monotonic() - start
    _raise_what_ended(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, *(machine.close() for machine in crowd.machines), return_exceptions=True)
    ended = Counter(each.socket.ended for each in [*crowd.workers(), *crowd.machines] if each.socket.ended)
    ended += Counter(page.socket.ended for page in crowd.pages if page.socket.ended)
    runs = msgspec.json.decode(crowd.connection.ask("GET", "/runs"))
    lost = sum(run["lost"] for run in runs) + sum(run["status"] != "running" for run in runs)
    p50, p99, longest = _of(crowd.trips_s)
    rows = {
        "workers, machines, pages": f"{wanted:,}, {given.machines:,}, {given.pages}",
        "heartbeat, median": f"{p50:.1f} ms",
        "heartbeat, 99%": f"{p99:.1f} ms",
        "heartbeat, longest": f"{longest:.1f} ms",
        "late in this process, 99%": f"{_of(crowd.lags_s)[1]:.1f} ms",
        "answers to pages, median and 99%": f"{_of(crowd.looks_s)[0]:.0f}, {_of(crowd.looks_s)[1]:.0f} ms",
        "coordinator's share of a core": f"{(after.cpu_s - before.cpu_s) / seconds:.0%}",
        "this process's share of another": f"{(time.process_time() - own_s) / seconds:.0%}",
        "coordinator's memory": f"{rss / 1e6:.0f} MB ({empty.rss / 1e6:.0f} MB before)",
        "heartbeats, events a page, each second": f"{len(crowd.trips_s) / seconds:.0f}, "
        f"{sum(page.heard for page in crowd.pages) / seconds / max(1, given.pages):.0f}",
        "all machines joined after": f"{joined_s:.1f} s",
        "all runs under way after": f"{trained_s:.1f} s more",
        "workers taken for lost": str(lost),
        "connections that ended": str(sum(ended.values())),
        "load of this machine": f"{os.getloadavg()[0]:.1f}",
    }
    print("| | |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value} |")
    for why, count in ended.most_common(5):
        print(f"{count} connections ended: {why}", file=sys.stderr)
    if lost:
        print(*(run for run in runs if run["lost"] or run["status"] != "running"), sep="\n", file=sys.stderr)
    return p99 < GOALS["p99"] and rss / 1e6 < GOALS["rss"] and not ended and not lost


def _of(seconds: list[float]) -> tuple[float, float, float]:
    """Median, 99% and longest, in milliseconds."""
    if len(seconds) < 2:
        return 0.0, 0.0, 0.0
    ordered = sorted(seconds)
    return 1e3 * statistics.median(ordered), 1e3 * ordered[int(0.99 * len(ordered))], 1e3 * ordered[-1]


def _standing(crowd: Crowd) -> Counter[str]:
    return Counter(worker.socket.ended or worker.state.standing.value for worker in crowd.workers())


def _raise_what_ended(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done():
            task.result()


def main() -> None:
    """One table; exit code 1 when an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=250)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--pages", type=int, default=50)
    parser.add_argument("--beat", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--first", action="store_true", help="before all other work of this machine, as root may")
    parser.add_argument("--profile", default="", help="have py-spy write there where the coordinator spends its time")
    parser.add_argument("--spy", default="py-spy", help="py-spy itself")
    given = parser.parse_args()
    random.seed(0)
    use_small_tls_buffers()
    with tempfile.TemporaryDirectory(prefix="roadtrain-load-") as folder:
        with coordinator(Path(folder)) as (pid, ticket):
            for process in (0, pid) if given.first else ():
                os.sched_setscheduler(process, os.SCHED_RR, os.sched_param(1))
            sys.exit(0 if asyncio.run(measure(given, pid, ticket)) else 1)


if __name__ == "__main__":
    main()
