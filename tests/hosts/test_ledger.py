"""Every sample of an epoch in one counted contribution, whoever is killed: by the ledger, and by the weights of a model that has
one for each sample."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from live import Live, Start, Train, weights

WORKERS, BATCH = 3, 8
JOB = """
import time
import torch
from torch import nn

class Task:
    '''The gradient of sample i raises weight i and no other.'''
    tokens_per_sample = 0
    def build(self):
        model = nn.Embedding({size}, 1)
        nn.init.zeros_(model.weight)
        return model
    def __len__(self):
        return {size}
    def batch(self, indices):
        return indices
    def loss(self, model, batch):
        if torch.is_grad_enabled():
            time.sleep({pause})
        return -model(batch).mean()
    def validate(self, model):
        return -float(model.weight.mean())
    def sample(self, model):
        return None

def make(plan):
    return Task()
"""


def job(folder: Path, steps: int, pause: float = 0.02) -> tuple[object, ...]:
    """A job whose epoch is `steps` steps of all workers, and the flags to run it."""
    (folder / "counting.py").write_text(JOB.format(size=steps * WORKERS * BATCH, pause=pause))
    flags = ("--workers", WORKERS, "--batch", BATCH, "--steps", steps, "--optimizer", "sgd", "--lr", 1)
    return (folder / "counting.py:make", *flags, "--log-every", 1)


def check(out: Path, report: dict[str, Any], size: int) -> None:
    """All that is promised of the samples of an epoch."""
    lines = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    at = 0
    for line in sorted(lines, key=lambda each: (each["epoch"], each["begin"])):
        assert (line["epoch"], line["begin"]) == (0, at), f"{line} after position {at}"
        at = line["end"]
    assert at == size
    assert report["samples"] == sum(worker["samples"] for worker in report["workers"]) == size
    ((_, values),) = weights(out).items()
    missing = (values.flatten() <= 0).nonzero().flatten().tolist()
    assert not missing, f"{len(missing)} samples are in no contribution to their fragment: {missing[:20]}"


def pids(live: Live) -> dict[str, int]:
    """The present process of each worker."""
    return {event["worker"]: event["pid"] for event in live.events("joined")}


def counted(live: Live) -> int:
    """Samples that the ledger has by now."""
    return sum(line["end"] - line["begin"] for line in live.lines("ledger.jsonl"))


@pytest.mark.parametrize(("sync", "victim"), [("ssgd", "w0"), ("asgd", "w1")])
def test_a_killed_worker_costs_no_sample(start: Start, tmp_path: Path, sync: str, victim: str) -> None:
    steps = 60
    live = start(*job(tmp_path, steps), "--sync", sync, "--fragment-mb", 0.002)
    live.wait_for_step(steps // 4, victim)
    os.kill(pids(live)[victim], signal.SIGKILL)
    ended = live.ended()
    assert ended.code == 0, ended.stderr
    assert ended.report["events"]["lost"] == 1
    check(live.out, ended.report, steps * WORKERS * BATCH)


@pytest.mark.parametrize("sync", ["ssgd", "localsgd:4"])
def test_without_losses_workers_compute_what_they_did_before(train: Train, tmp_path: Path, sync: str) -> None:
    """Step s, slot r is slice s * workers + r."""
    report, out = train(*job(tmp_path, 10, 0.0), "--sync", sync)
    check(out, report, 10 * WORKERS * BATCH)
    for line in (out / "ledger.jsonl").read_text().splitlines():
        each = json.loads(line)
        slices = range(each["begin"] // BATCH, each["end"] // BATCH)
        assert {f"w{number % WORKERS}" for number in slices} == {each["worker"]}


@pytest.mark.parametrize("sync", ["localsgd:4", pytest.param("asgd", marks=pytest.mark.long)])
def test_a_run_that_was_stopped_goes_on_in_the_middle_of_its_epoch(
    start: Start, train: Train, tmp_path: Path, sync: str
) -> None:
    """With one worker less, which takes as many steps for what is left of its own."""
    steps = 60
    live = start(*job(tmp_path, steps), "--sync", sync)
    live.wait_for_step(steps // 3)
    live.signal(signal.SIGINT)
    ended = live.ended()
    assert ended.code == 130, ended.stderr
    before = counted(live)
    assert 0 < before < steps * WORKERS * BATCH
    report, out = train("--resume", live.out)
    lines = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    assert sum(line["end"] - line["begin"] for line in lines) == steps * WORKERS * BATCH
    assert report["samples"] == steps * WORKERS * BATCH - before
    check(out, {**report, "samples": steps * WORKERS * BATCH, "workers": [{"samples": steps * WORKERS * BATCH}]}, 1440)


@pytest.mark.long
def test_an_owner_and_its_heir_are_killed_one_after_the_other(start: Start, tmp_path: Path) -> None:
    steps = 120
    live = start(*job(tmp_path, steps, 0.04), "--sync", "ssgd", "--owners", "central")
    live.wait_for_step(10)
    os.kill(pids(live)["w0"], signal.SIGKILL)
    live.wait_for(lambda: live.events("handoff"), "a handoff")
    heir = live.events("handoff")[0]["to"][0]
    time.sleep(2.0)
    os.kill(pids(live)[heir], signal.SIGKILL)
    ended = live.ended()
    assert ended.code == 0, ended.stderr
    check(live.out, ended.report, steps * WORKERS * BATCH)


@pytest.mark.long
def test_a_worker_that_stood_still_has_nothing_counted_twice(start: Start, tmp_path: Path) -> None:
    steps = 100
    live = start(*job(tmp_path, steps, 0.05), "--sync", "asgd")
    live.wait_for_step(10, "w1")
    frozen = pids(live)["w1"]
    os.kill(frozen, signal.SIGSTOP)
    live.wait_for(lambda: live.events("lost"), "a loss")
    ended = live.ended()
    assert ended.code == 0, ended.stderr
    check(live.out, ended.report, steps * WORKERS * BATCH)


STRATEGIES = {
    "ssgd": ("--sync", "ssgd"),
    "clip": ("--sync", "ssgd", "--clip", 100),
    "central": ("--sync", "ssgd", "--owners", "central"),
    "cut": ("--sync", "ssgd", "--fragment-mb", 0.002),
    "asgd": ("--sync", "asgd"),
    "asgd cut": ("--sync", "asgd", "--fragment-mb", 0.002),
    "ssp": ("--sync", "ssp:2"),
    "localsgd": ("--sync", "localsgd:4"),
    "by speed": ("--sync", "localsgd:8", "--by-speed"),
    "diloco": ("--sync", "diloco:5"),
    "streaming": ("--sync", "streaming:6"),
    "async-diloco": ("--sync", "async-diloco:5"),
}
RUNS, KILLS = 6, 3


def kill_some(live: Live, steps: int, draw: random.Random) -> list[tuple[str, int]]:
    """Kill workers of a run, one after the other; who, and when. A loss is survived when standbys hold all, so after a moment."""
    killed: list[tuple[str, int]] = []
    for number in range(KILLS):
        at = steps * WORKERS * BATCH * (number + draw.uniform(0.2, 0.8)) / (KILLS + 0.5)
        live.wait_for(lambda at=at: counted(live) >= at, "progress")
        time.sleep(draw.uniform(0.0, 0.1))
        victim, pid = draw.choice(sorted(pids(live).items()))
        killed.append((victim, counted(live)))
        with contextlib.suppress(ProcessLookupError):  # it has not come back from the last time
            os.kill(pid, signal.SIGKILL)
        time.sleep(2.0)
    return killed


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", STRATEGIES)
def test_no_sample_is_lost_or_counted_twice_in_many_kills(start: Start, tmp_path: Path, name: str) -> None:
    """72 runs of 3 kills each: over 200, drawn by seed."""
    steps = 80
    for seed in range(RUNS):
        words = (*job(tmp_path, steps, 0.03), *STRATEGIES[name])
        live = start(*words, name=f"{name}-{seed}".replace(" ", "-"))
        killed = kill_some(live, steps, random.Random(f"{name} {seed}"))
        ended = live.ended()
        said = f"seed {seed}, killed {killed}: {ended.stderr}"
        assert ended.code == 0, said
        try:
            check(live.out, ended.report, steps * WORKERS * BATCH)
        except AssertionError as error:
            raise AssertionError(f"{said}{error}") from error
