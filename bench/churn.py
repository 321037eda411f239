"""A fleet under faults: goodput and who takes part, against the same fleet left alone.

    bench/churn.py [--minutes M] [--per-hour N] [--seed S] [--workers W]

On this machine: a coordinator, an agent for every two workers, and `digits` by diloco:10. For M minutes faults come at random, N
an hour: a worker is killed, or stopped for 5 to 20 s, an agent is killed and another one joins, the coordinator is killed and
started again. Samples count when they are in the coordinator's ledger, where each stands once. Left alone it runs for half as
long.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "roadtrain"]
JOB = ["digits", "--steps", "10000000", "--sync", "diloco:10", "--checkpoint-every", "2000", "--log-every", "1000"]
FAULTS = {"worker killed": 5, "worker stopped": 3, "agent killed": 1, "coordinator killed": 1}
"""How often each is drawn, in proportion."""
STOPPED_S = 5.0, 20.0
AWAY_S = 3.0
"""A killed coordinator is started again after so long; another agent joins after as long."""
PATIENCE_S = 90.0
QUIET_S = 25.0
"""No fault comes in the last seconds: what was lost is back when samples are counted."""


class Fleet:
    """A coordinator, agents and a run, all of this process's."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder, self._number, self.port = folder, 0, "0"
        self.serve()
        self.agents = [self.join() for _ in range(workers // 2)]
        self.run = self._start("run", *JOB, "--workers", str(workers), "--on", self.ticket, "--out", "out", "--json")
        self._await(lambda: len(self.taking_part()) == workers, "all workers")

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        self._number += 1
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(self.folder / "state-home")}
        with (
            (self.folder / f"{self._number}.out").open("wb") as out,
            (self.folder / f"{self._number}.err").open("wb") as err,
        ):
            return subprocess.Popen(
                [*COMMAND, *words], cwd=self.folder, env=environment, stdout=out, stderr=err, start_new_session=True
            )

    def serve(self) -> None:
        """Start the coordinator, at the port that it had."""
        words = ("coordinator", "--listen", f"127.0.0.1:{self.port}", "--state", "state", "--json")
        self.coordinator = self._start(*words)
        said = self.folder / f"{self._number}.out"
        self._await(lambda: "\n" in said.read_text(), "coordinator")
        made = json.loads(said.read_text().partition("\n")[0])
        self.ticket, self.port = made["ticket"], made["url"].rpartition(":")[2]

    def join(self) -> subprocess.Popen[bytes]:
        """Another agent, of two workers."""
        return self._start("join", self.ticket, "--devices", "2", "--json")

    def _await(self, look: Any, what: str) -> None:
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            if look():
                return
            time.sleep(0.1)
        raise SystemExit(f"no {what} within {PATIENCE_S:.0f} s; see {self.folder}")

    def taking_part(self) -> set[str]:
        """Workers that compute, as the coordinator says; none while it is away."""
        words = [*COMMAND, "status", "--on", self.ticket, "--json"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        workers = json.loads(done.stdout)["workers"] if done.returncode == 0 else []
        return {worker["id"] for worker in workers if worker["alive"] and worker["state"] == "active"}

    def records(self, name: str) -> list[dict[str, Any]]:
        """Lines of one of the run's files at the coordinator."""
        return [json.loads(line) for file in self.folder.glob(f"state/runs/*/{name}") for line in _lines(file)]

    def samples(self) -> int:
        """Counted so far. Raises SystemExit where one counts twice."""
        seen: dict[int, list[tuple[int, int]]] = {}
        for line in self.records("ledger.jsonl"):
            seen.setdefault(line["epoch"], []).append((line["begin"], line["end"]))
        for epoch, runs in seen.items():
            runs.sort()
            if any(after[0] < before[1] for before, after in pairwise(runs)):
                raise SystemExit(f"samples of epoch {epoch} count twice; see {self.folder}")
        return sum(end - begin for runs in seen.values() for begin, end in runs)

    def pids(self) -> list[int]:
        """Processes of the workers that joined last."""
        joined = [event for event in self.records("events.jsonl") if event["event"] == "joined"]
        last = {event["worker"]: event["pid"] for event in joined}
        return [pid for pid in last.values() if _is_of(pid, self.folder)]

    def close(self) -> None:
        """End all of it."""
        for pid in self.pids():
            _signal(pid, signal.SIGCONT)
        for process in (self.run, *self.agents, self.coordinator):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pid in self.pids():
            _signal(pid, signal.SIGKILL)


class Faults:
    """Draws faults and carries them out; `count` of each."""

    def __init__(self, fleet: Fleet, per_hour: float, seed: int) -> None:
        self.count: Counter[str] = Counter()
        self._fleet, self._mean_s, self._draw = fleet, 3600 / per_hour, random.Random(seed)
        self._later: list[tuple[float, Any]] = []
        self._next_s = self._gap_s()

    def _gap_s(self) -> float:
        return time.monotonic() + self._draw.expovariate(1 / self._mean_s)

    def tick(self, *, quiet: bool) -> None:
        """What is due; nothing new when `quiet`."""
        now = time.monotonic()
        for due, act in [each for each in self._later if each[0] <= now]:
            self._later.remove((due, act))
            act()
        if not quiet and now >= self._next_s:
            self._next_s = self._gap_s()
            self._strike(self._draw.choices(list(FAULTS), list(FAULTS.values()))[0], now)

    def _strike(self, what: str, now: float) -> None:
        fleet, pids = self._fleet, self._fleet.pids()
        if not pids or fleet.coordinator.poll() is not None:
            return
        self.count[what] += 1
        print(f"{what}", file=sys.stderr, flush=True)
        if what == "worker killed":
            _signal(self._draw.choice(pids), signal.SIGKILL)
        elif what == "worker stopped":
            pid = self._draw.choice(pids)
            _signal(pid, signal.SIGSTOP)
            self._later.append((now + self._draw.uniform(*STOPPED_S), lambda: _signal(pid, signal.SIGCONT)))
        elif what == "agent killed":
            agent = fleet.agents.pop(self._draw.randrange(len(fleet.agents)))
            agent.kill()
            agent.wait()
            self._later.append((now + AWAY_S, lambda: fleet.agents.append(fleet.join())))
        else:
            fleet.coordinator.kill()
            fleet.coordinator.wait()
            self._later.append((now + AWAY_S, fleet.serve))


def campaign(given: argparse.Namespace, seconds: float, *, faults: bool) -> tuple[float, float, Counter[str], int]:
    """Samples a second, the mean share of workers that take part, faults by kind, and workers that were lost."""
    with _fleet(given.workers) as fleet:
        drawn = Faults(fleet, given.per_hour, given.seed)
        began, before = time.monotonic(), fleet.samples()
        shares: list[float] = []
        while (took := time.monotonic() - began) < seconds:
            drawn.tick(quiet=not faults or took > seconds - QUIET_S)
            if fleet.run.poll() is not None:
                raise SystemExit(f"the run has ended; see {fleet.folder}")
            if fleet.coordinator.poll() is None and int(took) // 5 > len(shares) - 1:
                shares.append(len(fleet.taking_part()) / given.workers)
            time.sleep(0.1)
        rate = (fleet.samples() - before) / (time.monotonic() - began)
        lost = sum(event["event"] == "lost" for event in fleet.records("events.jsonl"))
        return rate, statistics.fmean(shares), drawn.count, lost


@contextlib.contextmanager
def _fleet(workers: int) -> Iterator[Fleet]:
    folder = Path(tempfile.mkdtemp(prefix="roadtrain-churn-"))
    fleet = Fleet(folder, workers)
    try:
        yield fleet
    finally:
        fleet.close()
    shutil.rmtree(folder)  # where it went wrong it stays, to be looked at


def _lines(file: Path) -> list[str]:
    """Whole ones alone: the last may be half written."""
    return file.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()


def _is_of(pid: int, folder: Path) -> bool:
    """Whether it lives, and is no other process that has its number now."""
    try:
        return str(folder).encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--per-hour", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=8)
    given = parser.parse_args()
    alone, all_of_them, _, _ = campaign(given, 30 * given.minutes, faults=False)
    rate, share, count, lost = campaign(given, 60 * given.minutes, faults=True)
    drawn = ", ".join(f"{number} {what}" for what, number in sorted(count.items()))
    print(
        "| fleet | faults | workers lost | samples/s | of undisturbed | workers that take part |\n|---|---|---|---|---|---|"
    )
    print(f"| left alone | none | 0 | {alone:.0f} | 1.00 | {all_of_them:.2f} |")
    print(f"| under faults | {drawn} | {lost} | {rate:.0f} | {rate / alone:.2f} | {share:.2f} |")


if __name__ == "__main__":
    main()
