"""The coordinator is lost with its process: a worker takes its place, and whatever dies afterwards is noticed as before."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from live import ROADTRAIN, Live, Start, clean_environment, free_port, is_gone, last_checkpoint
from test_comebacks import SAMPLES, STEPS, TRAINING, launched, ranks, ranks_again

STRATEGIES = {
    "ssgd": ("ssgd",),
    "allreduce": ("ssgd:allreduce",),
    "asgd": ("asgd", "--lr", 0.02),
    "localsgd": ("localsgd:4",),
    "diloco": ("diloco:5", "--codec", "int8"),
    "streaming": ("streaming:6",),
}
LONG = ("allreduce", "asgd", "localsgd", "diloco", "streaming")


def report_of(live: Live, seconds: float = 90.0) -> dict:
    """The report that whoever was the coordinator at the end has written."""
    path, end = live.out / "report.json", time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, live.lines("events.jsonl")
        time.sleep(0.1)
    time.sleep(0.2)
    return json.loads(path.read_text())


def succeeded(running: list[Live], worker: str, steps: int) -> Live:
    """Rank 0 is killed with its worker, and `worker` has done so many steps more under the next one, which is returned."""
    live, other = running[:2]
    live.wait_for_step(8, "w1")
    os.kill(live.pid("w0"), signal.SIGKILL)
    live.signal(signal.SIGKILL)
    live.process.wait()
    begun = time.monotonic()
    other.wait_for(lambda: other.events("took_over"), "succession", 20.0)
    assert time.monotonic() - begun < 5.0
    step = other.step_of(worker)
    other.wait_for(lambda: other.step_of(worker) > step + steps, "further steps")
    return other


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long) if n in LONG else n for n in STRATEGIES])
def test_rank_0_dies_with_its_coordinator_and_the_others_go_on(tmp_path: Path, name: str):
    running = ranks(tmp_path / "run", 4, free_port(), "--sync", *STRATEGIES[name])
    try:
        live, other = running[0], succeeded(running, "w2", 2)
        running[3].signal(signal.SIGKILL)  # noticed by the new coordinator
        other.wait_for(lambda: len(other.events("lost")) == 2, "notice of the death of w3")
        ended = [running[rank].ended() for rank in (1, 2)]
        assert [one.code for one in ended] == [0, 0], [one.stderr for one in ended]
        assert "the coordinator is lost" in ended[0].stderr
        report = report_of(live)
        assert report["status"] == "finished"
        assert report["events"]["lost"] == 2
        assert report["val_loss"] < 1.5  # ln 10 = 2.3 is chance
        if name == "allreduce":
            done = {worker["id"]: worker["steps"] for worker in report["workers"] if worker["id"] in ("w1", "w2")}
            assert done == {"w1": STEPS, "w2": STEPS}
        else:
            assert report["samples"] == STEPS * 4 * 16, "not every sample counts"
    finally:
        for one in running:
            one.end()


@pytest.mark.long
def test_a_rank_that_is_started_again_finds_whoever_took_the_coordinators_place(tmp_path: Path):
    port = free_port()
    running = ranks(tmp_path / "run", 4, port, "--sync", "ssgd", "--steps", 150)
    try:
        other = succeeded(running, "w2", 9)  # all is held twice again
        running[3].signal(signal.SIGKILL)
        other.wait_for(lambda: len(other.events("lost")) == 2, "notice of the death of w3")
        again = ranks_again(running[3], port, rank=3, world=4)
        running.append(again)
        other.wait_for(lambda: other.events("returned"), "return of w3")
        ended = [one.ended() for one in (*running[1:3], again)]
        assert [one.code for one in ended] == [0, 0, 0], [one.stderr for one in ended]
        assert report_of(running[0])["samples"] == 150 * 4 * 16, "not every sample counts"
    finally:
        for one in running:
            one.end()


@pytest.mark.parametrize(
    ("asked", "number"), [pytest.param(1, signal.SIGINT, marks=pytest.mark.long), pytest.param(2, signal.SIGTERM)]
)
def test_who_took_the_coordinators_place_stops_the_run_when_any_rank_is_asked_to(
    tmp_path: Path, asked: int, number: int
) -> None:
    running = ranks(tmp_path / "run", 3, free_port(), "--sync", "diloco:5", "--steps", 4000)
    try:
        live = running[0]
        succeeded(running, f"w{asked}", 2)
        running[asked].signal(number)
        ended = [one.ended() for one in running[1:]]
        assert [one.code for one in ended] == [130, 0], [one.stderr for one in ended]
        assert "holds a checkpoint" in ended[0].stderr
        assert ended[0].stderr.count(f"--resume {live.out}") == 1
        assert report_of(live)["status"] == "interrupted"
        assert last_checkpoint(live.out)["steps"]["1"] == live.step_of("w1") < 4000
    finally:
        for one in running:
            one.end()


def test_the_driver_dies_and_later_a_worker(start: Start):
    live = start(*TRAINING, "--sync", "ssgd")
    live.wait_for_step(8, "w0")
    workers = [live.pid(worker) for worker in ("w0", "w1", "w2")]
    live.signal(signal.SIGKILL)
    live.process.wait()
    end = time.monotonic() + 60.0
    while not live.events("took_over"):
        assert time.monotonic() < end, live.lines("events.jsonl")
        time.sleep(0.05)
    os.kill(workers[2], signal.SIGKILL)
    report = report_of(live)
    assert report["status"] == "finished"
    assert report["events"]["lost"] == 1
    assert report["samples"] == SAMPLES, "not every sample counts"
    end = time.monotonic() + 30.0
    while not all(map(is_gone, workers)):
        assert time.monotonic() < end, "workers are left"
        time.sleep(0.1)


# ------------------------------------------------------------------------------------- replicas of several workers

GROUPS = ("digits", "--steps", STEPS, "--batch", 16, "--log-every", 1)
SLOW = ("--straggler", *(f"worker={worker},base=0.1" for worker in range(4)))
REGIONS = (*GROUPS, *SLOW, "--workers", 4, "--regions", 2, "--sync", "diloco:5")


@pytest.mark.long
@pytest.mark.parametrize(("layout", "victim"), [("dp:2", None), ("fsdp:2", "w3"), ("fsdp:2", "w1")])
def test_the_driver_of_several_regions_dies_and_later_a_worker(start: Start, layout: str, victim: str | None):
    live = start(*REGIONS, "--layout", layout)
    live.wait_for_step(8, "w0")
    workers = [live.pid(f"w{slot}") for slot in range(4)]
    live.signal(signal.SIGKILL)
    live.process.wait()
    end = time.monotonic() + 60.0
    while not live.events("took_over"):
        assert time.monotonic() < end, live.lines("events.jsonl")
        time.sleep(0.05)
    if victim is not None:
        live.signal(signal.SIGKILL, victim)
    report = report_of(live)
    assert report["status"] == "finished"
    assert report["val_loss"] < 1.5  # ln 10 = 2.3 is chance
    region = {None: [], "w3": ["w2", "w3"], "w1": ["w0", "w1"]}[victim]
    assert sorted(event["worker"] for event in live.events("lost")) == region
    left = [f"w{slot}" for slot in range(4) if f"w{slot}" not in region]
    assert all(live.step_of(name) == STEPS for name in left)
    assert {worker["id"]: worker["steps"] for worker in report["workers"] if worker["id"] in left} == dict.fromkeys(
        left, STEPS
    )
    end = time.monotonic() + 30.0
    while not all(map(is_gone, workers)):
        assert time.monotonic() < end, "workers are left"
        time.sleep(0.1)


@pytest.mark.long
@pytest.mark.parametrize("layout", ["fsdp:2", "dp:2"])
def test_rank_0_of_two_regions_dies_and_the_other_region_goes_on(tmp_path: Path, layout: str):
    running = launched(tmp_path / "run", 4, free_port(), *REGIONS, "--layout", layout)
    try:
        live, first, heir = running[:3]
        live.wait_for_step(8, "w2")
        os.kill(live.pid("w0"), signal.SIGKILL)
        live.signal(signal.SIGKILL)
        live.process.wait()
        ended = [one.ended() for one in running[1:]]
        assert [one.code for one in ended] == [1, 0, 0], [one.stderr for one in ended]
        assert ended[0].stderr.splitlines() == [
            f"w1: a worker of this replica died, and with it a part of the model in {layout}"
        ]
        assert "the coordinator is lost" in ended[1].stderr
        assert sorted(event["worker"] for event in first.events("lost")) == ["w0", "w1"]
        report = report_of(heir)
        assert report["status"] == "finished"
        assert report["val_loss"] < 1.5  # ln 10 = 2.3 is chance
        assert {worker["id"]: worker["steps"] for worker in report["workers"] if worker["steps"]} == {
            "w2": STEPS,
            "w3": STEPS,
        }
    finally:
        for one in running:
            one.end()


@pytest.mark.long
def test_rank_0_of_one_region_in_parts_dies_and_the_others_end_with_a_line(tmp_path: Path):
    running = launched(tmp_path / "run", 3, free_port(), *GROUPS, *SLOW[:4], "--workers", 3, "--layout", "fsdp:3")
    try:
        live = running[0]
        live.wait_for_step(8, "w1")
        os.kill(live.pid("w0"), signal.SIGKILL)
        live.signal(signal.SIGKILL)
        live.process.wait()
        ended = [one.ended(60.0) for one in running[1:]]
        assert [one.code for one in ended] == [1, 1], [one.stderr for one in ended]
        assert ended[1].stderr.splitlines() == ["w2: all workers are lost (w0 was killed)"]
        assert "Traceback" not in ended[0].stderr
        assert report_of(live)["status"] == "failed"
    finally:
        for one in running:
            one.end()


PRINTING = """
import sys, time, torch, roadtrain as rt
torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x = torch.randn(64, 4)
y = x.sum(1, keepdim=True)
with rt.attach(model, optimizer, sync="localsgd:5") as sync:
    for step in range(80):
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        sync.log(loss=loss)
        print("step", step, "\u2713", flush=True)
        sys.stdout.write("part of a line ")
        time.sleep(0.05)
print("through")
"""


def test_a_script_that_prints_outlives_the_driver_that_showed_its_words(tmp_path: Path):
    script, out = tmp_path / "printing.py", tmp_path / "run"
    script.write_text(PRINTING, encoding="utf-8")
    line = [str(ROADTRAIN), "run", "--workers", "3", "--out", str(out), str(script)]
    live = Live(line, out, clean_environment())
    try:
        live.wait_for_step(10, "w0")
        live.signal(signal.SIGKILL)
        live.process.wait()
        assert report_of(live)["status"] == "finished"
    finally:
        live.end()
    said = (live.out / "logs" / "w0.log").read_text(encoding="utf-8")
    assert "Traceback" not in said
    assert said.count("through") == 1
    assert said.count("\u2713") >= 75, "more is lost than what was on its way as the driver died"


@pytest.mark.long
def test_a_coordinator_that_stands_still_is_waited_for(start: Start):
    live = start(*TRAINING, "--sync", "ssgd")
    live.wait_for_step(4, "w0")
    live.signal(signal.SIGSTOP)
    time.sleep(12.0)
    live.signal(signal.SIGCONT)
    ended = live.ended()
    assert ended.code == 0, ended.stderr
    assert not live.events("took_over")
    assert not live.events("lost")
    assert live.step_of("w0") == STEPS
