"""Feeders of real runs: they change no bit, and what happens to them costs nothing but time; samples that cannot be made."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live import Live, Start, Train, is_gone, weights

from roadtrain.lease import WINDOW
from roadtrain.trainer.sampler import Sampler

JOB = """
import os
import time

import torch
from torch import nn
from torch.nn import functional

LOG, BAD, PAUSE, SIZE = {log!r}, {bad!r}, {pause!r}, {size!r}


def note(what, *numbers):
    with open(LOG, "a") as file:
        file.write(" ".join(map(str, (what, os.getpid(), *numbers))) + "\\n")


class Task:
    tokens_per_sample = 0

    def build(self):
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    def __len__(self):
        return SIZE

    def batch(self, indices):
        note("batch", *indices.tolist())
        for index in indices.tolist():
            if index in BAD:
                raise ValueError(f"broken picture {{index}}")
        pictures = torch.randint(0, 256, (len(indices), 6), dtype=torch.uint8)
        return {{"picture": pictures, "label": indices % 3}}

    def loss(self, model, batch):
        assert batch["picture"].dtype == torch.uint8
        note("step", len(batch["label"]))
        time.sleep(PAUSE)
        return functional.cross_entropy(model(batch["picture"] / 255), batch["label"])

    def validate(self, model):
        return 1.0

    def sample(self, model):
        return None


def make(plan):
    return Task()
"""
FLAGS = ("--batch", "8", "--optimizer", "sgd", "--lr", "0.1", "--seed", "5")


class Job:
    """The job in a file, and what it has written down."""

    def __init__(self, folder: Path, *, bad: tuple[int, ...] = (), pause: float = 0.02, size: int = 240) -> None:
        self.size = size
        self.log, self.file = folder / "log", folder / "pictures.py"
        self.log.unlink(missing_ok=True)
        self.file.write_text(JOB.format(log=str(self.log), bad=bad, pause=pause, size=size))
        self.target = f"{self.file}:make"

    def lines(self, what: str) -> list[list[int]]:
        """Pid and numbers of each call."""
        text = self.log.read_text() if self.log.exists() else ""
        rows = [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [[int(word) for word in row[1:]] for row in rows if row[0] == what]

    def steps(self, workers: int) -> tuple[str, ...]:
        return "--workers", str(workers), "--steps", str(self.size // 8 // workers)


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(bool((a[name] == b[name]).all()) for name in a)


def pids(out: Path, event: str = "feeder_joined") -> dict[str, int]:
    lines = (out / "events.jsonl").read_text().splitlines()
    return {e["feeder"]: e.get("pid", 0) for e in map(json.loads, lines) if e["event"] == event}


@pytest.mark.parametrize("workers", [1, 2])
def test_feeders_change_no_bit(tmp_path: Path, train: Train, workers: int) -> None:
    job = Job(tmp_path, pause=0.05)
    _, alone = train(job.target, *job.steps(workers), *FLAGS)
    job = Job(tmp_path, pause=0.05)
    report, fed = train(job.target, *job.steps(workers), *FLAGS, "--feeders", 2)
    assert same(alone, fed)
    assert report["samples"] == job.size
    made_here = {row[0] for row in job.lines("step")}
    by_feeders = [row for row in job.lines("batch") if row[0] not in made_here]
    assert len(by_feeders) >= job.size // 8 // 2
    assert {row[0] for row in by_feeders} <= set(pids(fed).values())
    assert [feeder["id"] for feeder in report["feeders"]] == ["f0", "f1"]
    assert sum(feeder["samples"] for feeder in report["feeders"]) >= job.size // 2


SCRIPT = """
import os
import sys

import torch
from torch import nn

import roadtrain as rt


def made(what, index):
    with open(sys.argv[2], "a") as file:
        file.write(f"{os.getpid()} {what}\\n")
    return torch.rand(4) + index, torch.tensor(float(index))


class Numbers(torch.utils.data.Dataset):
    def __init__(self, what, size):
        self.what, self.size = what, size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return made(self.what, index)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return (made("train", index) for index in range(90))


torch.manual_seed(0)
model = nn.Linear(4, 1)


def loss(model, batch):
    return ((model(batch[0]).squeeze(1) - batch[1]) ** 2).mean()


data = Stream() if sys.argv[1] == "stream" else Numbers("train", 90)
trainer = rt.Trainer(model, loss, torch.optim.SGD(model.parameters(), lr=1e-5), batch=8)
trainer.fit(data, epochs=2, validation=Numbers("held-out", 30))
"""


@pytest.mark.parametrize("kind", ["numbers", pytest.param("stream", marks=pytest.mark.long)])
def test_a_script_is_fed_what_it_trains_and_validates_on(kind: str, tmp_path: Path, start: Start) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    reports: list[Any] = []
    outs: list[Path] = []
    for feeders in ("0", "2"):
        log = tmp_path / f"log{feeders}"
        run = start("--feeders", feeders, "--workers", 2, script, kind, log, name=f"out{feeders}")
        ended = run.ended()
        assert ended.code == 0, ended.stderr
        assert ended.report["samples"] == 180
        reports.append(ended.report)
        outs.append(run.out)
    assert same(*outs)
    assert reports[0]["val_loss"] == reports[1]["val_loss"]
    lines = [line.split() for line in (tmp_path / "log2").read_text().splitlines()]
    by_feeders = {what for pid, what in lines if int(pid) in pids(outs[1]).values()}
    assert by_feeders == {"train", "held-out"}


def test_a_killed_feeder_costs_nothing_and_another_comes(tmp_path: Path, start: Start, train: Train) -> None:
    job = Job(tmp_path, pause=0.1)
    _, alone = train(job.target, *job.steps(1), *FLAGS)
    job = Job(tmp_path, pause=0.1)
    run = start(job.target, *job.steps(1), *FLAGS, "--feeders", 2, name="killed")
    run.wait_for(lambda: len(run.events("feeder_joined")) == 2 and len(job.lines("step")) > 4, "feeding")
    os.kill(job.lines("batch")[-1][0], signal.SIGKILL)
    run.wait_for(lambda: run.events("feeder_lost") and len(run.events("feeder_joined")) == 3, "another feeder")
    ended = run.ended()
    assert ended.code == 0, ended.stderr
    assert ended.report["samples"] == job.size
    assert same(alone, run.out)


def slow_feeder(folder: Path, pause: float = 0.05) -> tuple[Job, Path]:
    """A job whose steps say what they are on, and a file: a process whose pid is in it takes a second for a batch."""
    job, slow = Job(folder, pause=pause), folder / "slow-pid"
    text = job.file.read_text().replace('note("step", len', 'note("step", batch["first"], len')
    text = text.replace('{"picture": pictures', '{"first": int(indices[0]), "picture": pictures')
    hangs = f"if os.path.exists({str(slow)!r}) and open({str(slow)!r}).read() == str(os.getpid()):"
    job.file.write_text(
        text.replace("        pictures =", f"        {hangs}\n            time.sleep(1)\n        pictures =")
    )
    return job, slow


@pytest.mark.parametrize("sync", ["ssgd", pytest.param("asgd", marks=pytest.mark.long)])
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_in_any_order_a_slow_feeder_is_overtaken(tmp_path: Path, start: Start, workers: int, sync: str) -> None:
    job, slow = slow_feeder(tmp_path)
    flags = ("--feeders", 2, "--order", "any", "--sync", sync)
    run = start(job.target, *job.steps(workers), *FLAGS, *flags)
    run.wait_for(lambda: len(run.events("feeder_joined")) == 2, "feeders")
    slow.write_text(str(pids(run.out)["f0"]))
    ended = run.ended()
    assert ended.code == 0, ended.stderr
    assert ended.report["samples"] == job.size
    assert counted(run.out) == [1] * job.size
    sampler = Sampler(job.size, 8, workers, 5)
    number = {int(sampler.slice(each)[0]): each for each in range(job.size // 8)}
    taken = [number[row[1]] for row in job.lines("step")]
    assert sorted(taken) == list(range(job.size // 8))
    overtaken = [sum(later > each for later in taken[:at]) for at, each in enumerate(taken)]
    assert 1 < max(overtaken) <= WINDOW * workers


@pytest.mark.long
@pytest.mark.parametrize("sync", ["ssgd", "asgd", "localsgd:3"])
def test_a_run_that_was_stopped_out_of_order_loses_and_repeats_nothing(
    tmp_path: Path, start: Start, train: Train, sync: str
) -> None:
    job, slow = slow_feeder(tmp_path)
    flags = ("--feeders", 2, "--order", "any", "--sync", sync)
    run = start(job.target, *job.steps(2), *FLAGS, *flags)
    run.wait_for(lambda: len(run.events("feeder_joined")) == 2, "feeders")
    slow.write_text(str(pids(run.out)["f0"]))
    run.wait_for(lambda: len(job.lines("step")) > 10, "steps")
    run.signal(signal.SIGINT)
    ended = run.ended()
    assert ended.code == 130, ended.stderr
    ahead = max(line["end"] for line in run.lines("ledger.jsonl"))
    assert ahead > sum(line["end"] - line["begin"] for line in run.lines("ledger.jsonl")), "it was in order"
    _, out = train("--resume", run.out)
    assert counted(out) == [1] * job.size


def test_a_feeder_that_stands_still_is_gone_round(tmp_path: Path, start: Start) -> None:
    job = Job(tmp_path, pause=0.05)
    run = start(job.target, *job.steps(1), *FLAGS, "--feeders", 1, name="stopped")
    run.wait_for(lambda: len(job.lines("step")) > 4 and run.events("feeder_joined"), "feeding")
    feeder = pids(run.out)["f0"]
    os.kill(feeder, signal.SIGSTOP)
    try:
        steps = len(job.lines("step"))
        run.wait_for(lambda: len(job.lines("step")) > steps + 5, "steps without it", 30)
    finally:
        os.kill(feeder, signal.SIGCONT)
    ended = run.ended()
    assert ended.code == 0, ended.stderr
    assert ended.report["samples"] == job.size


def test_feeders_feed_on_when_the_coordinator_is_lost(tmp_path: Path, start: Start) -> None:
    job = Job(tmp_path, pause=0.05, size=960)
    run = start(job.target, *job.steps(2), *FLAGS, "--feeders", 1, name="led")
    run.wait_for(lambda: len(job.lines("step")) > 20 and run.events("feeder_joined"), "feeding")
    feeder = pids(run.out)["f0"]
    run.process.kill()
    run.process.wait()
    until(lambda: (run.out / "report.json").exists(), "report")
    report = json.loads((run.out / "report.json").read_text())
    assert (report["status"], report["samples"]) == ("finished", job.size)
    assert pids(run.out) == {"f0": feeder}
    assert sum(each["samples"] for each in report["feeders"]) > job.size // 2
    until(lambda: is_gone(feeder), "end of the feeder")


def until(holds: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"no {what} within {seconds} s"
        time.sleep(0.05)


@pytest.mark.parametrize("feeders", ["0", "1"])
def test_samples_that_cannot_be_made_are_left_out_and_told(tmp_path: Path, train: Train, feeders: str) -> None:
    job = Job(tmp_path, bad=(17, 40), pause=0.0)
    flags = ("--bad-samples", "skip", "--feeders", feeders, "--workers", "2", "--steps", "15")
    report, out = train(job.target, *flags, *FLAGS)
    assert report["bad_samples"] == [17, 40]
    assert report["samples"] == job.size - 2
    events = map(json.loads, (out / "events.jsonl").read_text().splitlines())
    told = {e["index"]: e["why"] for e in events if e["event"] == "bad_sample"}
    assert told == {17: "ValueError: broken picture 17", 40: "ValueError: broken picture 40"}
    assert sum(row[1] for row in job.lines("step")) == job.size - 2


@pytest.mark.parametrize(("feeders", "workers"), [("0", 1), ("1", 1), ("0", 2)])
def test_samples_that_cannot_be_made_end_the_run(tmp_path: Path, start: Start, feeders: str, workers: int) -> None:
    job = Job(tmp_path, bad=(17,), pause=0.0)
    run = start(job.target, *job.steps(workers), *FLAGS, "--feeders", feeders, name="failed")
    ended = run.ended()
    assert ended.code == 1
    said = [line for line in ended.stderr.splitlines() if line.startswith("error")]
    assert said == ["error: sample 17 cannot be made: ValueError: broken picture 17"]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_fifty_kills_lose_and_repeat_nothing(tmp_path: Path, start: Start, train: Train, seed: int) -> None:
    """Fifty seeded kills of feeders, in as many runs as it takes: what is trained is what undisturbed runs train."""
    drawn, kills = random.Random(seed), 0
    job = Job(tmp_path, pause=0.06)
    _, alone = train(job.target, *job.steps(1), *FLAGS)
    for number in range(50):
        if kills >= 50:
            break
        job = Job(tmp_path, pause=0.06)
        run = start(job.target, *job.steps(1), *FLAGS, "--feeders", 3, name=f"run{number}")
        kills += _kill_some(run, job, drawn)
        ended = run.ended()
        assert ended.code == 0, ended.stderr
        assert same(alone, run.out), f"run {number}"
        assert counted(run.out) == [1] * job.size, f"run {number}"
    assert kills >= 50


def _kill_some(run: Live, job: Job, drawn: random.Random) -> int:
    killed: set[int] = set()
    run.wait_for(lambda: len(job.lines("step")) > 2 and len(run.events("feeder_joined")) == 3, "feeding")
    for step in sorted(drawn.sample(range(4, 24), 5)):
        run.wait_for(lambda step=step: len(job.lines("step")) >= step, f"step {step}")
        here = [e["pid"] for e in run.events("feeder_joined") if e["pid"] not in killed]
        if here:
            killed.add(drawn.choice(here))
            for pid in list(killed):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
    return len(killed)


def counted(out: Path) -> list[int]:
    """How often each sample of the epoch is in the ledger."""
    lines = map(json.loads, (out / "ledger.jsonl").read_text().splitlines())
    times: Counter[int] = Counter(at for line in lines for at in range(line["begin"], line["end"]))
    return [times[at] for at in range(max(times) + 1)]
