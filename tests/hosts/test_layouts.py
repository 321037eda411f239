"""Layouts by the command: what the report says of them, regions, checkpoints under another layout, a killed rank."""

from __future__ import annotations

import json
import os
import signal
import time
from itertools import pairwise
from pathlib import Path

import pytest
from live import ROADTRAIN, Live, Start, Train, distance

SIZE = ("--layers", 2, "--width", 32, "--heads", 4, "--context", 16)
SGD = ("--optimizer", "sgd", "--lr", 0.1, "--momentum", 0.9, "--clip", 0.3)
GPT = ("gpt", *SIZE, *SGD, "--log-every", 1)
STEPS = 8
ROOM_BYTES = 100_000_000
"""Less than the other half of the batch needs below."""


def test_workers_of_a_layout_share_slots_and_memory(train: Train):
    alone, home = train(*GPT, "--steps", STEPS, "--workers", 1, "--batch", 4)
    report, out = train(*GPT, "--steps", STEPS, "--workers", 2, "--batch", 4, "--layout", "tp:2")
    assert distance(out, home) < 1e-4
    assert report["samples"] == alone["samples"] == STEPS * 4
    assert [worker["samples"] for worker in report["workers"]] == [STEPS * 4, 0]
    assert report["val_loss"] == pytest.approx(alone["val_loss"], rel=1e-5)
    held = [worker["state_bytes"] for worker in report["workers"]]
    assert max(held) < 0.6 * alone["workers"][0]["state_bytes"]


@pytest.mark.long
def test_regions_with_layouts_of_their_own_agree(train: Train):
    diloco = ("--steps", STEPS, "--sync", "diloco:4")
    _, plain = train(*GPT, *diloco, "--workers", 2, "--batch", 4)
    layouts = ("--regions", 2, "--layout", "r0=fsdp:2", "r1=dp:1")
    report, _ = train(*GPT, *diloco, "--workers", 3, "--batch", 2, *layouts)
    assert [worker["region"] for worker in report["workers"]] == ["r0", "r0", "r1"]
    assert [worker["samples"] for worker in report["workers"]] == [STEPS * 2] * 3
    same = ("--regions", 2, "--layout", "r0=fsdp:2", "r1=dp:2")
    _, out = train(*GPT, *diloco, "--workers", 4, "--batch", 2, *same)
    assert distance(out, plain) < 1e-4


def test_a_killed_rank_costs_no_more_than_the_steps_since_the_checkpoint(start: Start, train: Train):
    slow = ("--straggler", "worker=0,base=0.1")
    words = (*GPT, "--steps", 30, "--workers", 2, "--batch", 2, "--layout", "fsdp:2", "--checkpoint-every", 5)
    live = start(*words, *slow)
    live.wait_for_step(12)
    live.signal(signal.SIGKILL, "w1")
    ended = live.ended()
    assert ended.code == 0, ended.stderr
    (restarted,) = live.events("restarted")
    assert restarted["from_checkpoint"]
    again = [m["step"] for m in live.lines("metrics.jsonl") if m["worker"] == "w0"]
    assert sorted(set(again)) == list(range(1, 31))
    assert 30 < len(again) <= 30 + 10, "more was done again than what was not saved"
    _, out = train(*words)
    assert distance(live.out, out) < 1e-6


@pytest.mark.long
def test_a_checkpoint_goes_on_under_another_layout(start: Start, train: Train):
    _, whole = train(*GPT, "--steps", 10, "--workers", 2, "--batch", 4, "--layout", "fsdp:2")
    _, half = train(*GPT, "--steps", 5, "--workers", 2, "--batch", 4, "--layout", "fsdp:2")
    live = start("--resume", half, "--steps", 10, "--workers", 2, "--batch", 8, "--layout", "pp:2")
    ended = live.ended()
    assert ended.code == 0, ended.stderr
    assert distance(half, whole) < 1e-4


@pytest.mark.long
def test_a_device_twice_as_fast_has_twice_the_blocks(train: Train):
    words = (GPT[0], "--layers", 6, *GPT[3:], "--steps", 4, "--batch", 4)
    _, home = train(*words, "--workers", 1)
    report, out = train(*words, "--workers", 2, "--layout", "pp:2", "--stage-speeds", "2,1")
    assert distance(out, home) < 1e-4
    held = [worker["state_bytes"] for worker in report["workers"]]
    assert held[0] > 1.5 * held[1]
    assert speeds_of(out) == [2.0, 1.0]
    _, out = train(*words, "--workers", 2, "--layout", "pp:2")
    assert min(speeds_of(out)) == 1.0, "measured"


def speeds_of(out: Path) -> list[float]:
    """The speeds by which a pipeline was cut."""
    events = map(json.loads, (out / "events.jsonl").read_text().splitlines())
    return next(event["speeds"] for event in events if event["event"] == "cut")


STEPS_OF_REGIONS = 120
REGIONS = ("--workers", 4, "--batch", 2, "--regions", 2, "--layout", "fsdp:2", "--sync", "diloco:5")


@pytest.mark.long
@pytest.mark.parametrize("victim", ["w0", "w3"])
def test_a_region_comes_back_when_a_rank_is_killed(start: Start, victim: str):
    slow = ("--straggler", *(f"worker={worker},base=0.1" for worker in range(4)))
    live = start(*GPT, "--steps", STEPS_OF_REGIONS, *REGIONS, *slow)
    live.wait_for_step(12, victim)
    live.signal(signal.SIGKILL, victim)
    region, other = (("w0", "w1"), "w2") if victim == "w0" else (("w2", "w3"), "w0")
    live.wait_for(lambda: len(live.events("returned")) == 2, "return")
    ended = live.ended()
    assert ended.code == 0, ended.stderr
    assert sorted(e["worker"] for e in live.events("lost")) == sorted(e["worker"] for e in live.events("returned"))
    assert sorted(e["worker"] for e in live.events("returned")) == list(region)
    assert (ended.report["events"]["joined"], ended.report["events"]["lost"]) == (6, 2)
    assert not live.events("restarted")
    steps = {name: [m["step"] for m in live.lines("metrics.jsonl") if m["worker"] == name] for name in (*region, other)}
    assert steps[other] == list(range(1, STEPS_OF_REGIONS + 1)), "the other region goes on"
    for name in region:
        begins = next(i for i in range(1, len(steps[name])) if steps[name][i] != steps[name][i - 1] + 1)
        back = steps[name][begins:]
        assert back[0] > 12
        assert back[0] % 5 == 1, "from what the regions had agreed on"
        assert all(b == a + 1 or (b > a and b % 5 == 0) for a, b in pairwise(back)), (
            "rounds may close without it at first"
        )
        assert back[-1] == STEPS_OF_REGIONS, "to the same end"
    assert ended.report["val_loss"] < 5.4  # ln 256 = 5.5 is chance


def address_space(live: Live, worker: str) -> int:
    """The most bytes of addresses that a worker has had so far; 0 when it has ended."""
    try:
        status = Path(f"/proc/{live.pid(worker)}/status").read_text()
    except FileNotFoundError:
        return 0
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmPeak")), 0)


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the limit is Linux's")
def test_a_worker_with_too_little_memory_goes_on_in_smaller_pieces(start: Start):
    """Half the batch fits under the limit, the whole batch does not: measured, then set."""
    wide = ("gpt", "--layers", 1, "--width", 16, "--heads", 2, "--context", 256, "--batch", 512, "--steps", 2)
    words = (*wide, "--workers", 1, "--layout", "dp:1", "--log-every", 1)
    free = start(*words, "--micro-batches", 2, name="free")
    free.wait_for_step(1)
    needed = 0
    while free.process.poll() is None and not (free.out / "report.json").exists():
        needed = max(needed, address_space(free, "w0"))
        time.sleep(0.02)
    assert free.ended().code == 0
    live = start(*words, command=("prlimit", f"--as={needed + ROOM_BYTES}", str(ROADTRAIN)))
    ended = live.ended()
    assert ended.code == 0, ended.stderr
    (restarted,) = live.events("restarted")
    assert "allocate memory" in restarted["reason"]
    assert restarted["micro_batches"] == ended.report["plan"]["layout"]["micro_batches"] == 2
    assert ended.report["samples"] == 2 * 512, "the batch is what it was"
    assert distance(live.out, free.out) < 1e-6


@pytest.mark.long
def test_a_region_comes_back_to_a_run_that_was_resumed(start: Start, train: Train):
    """Periods count from where the run began, which is amid one."""
    _, half = train(*GPT, "--steps", 13, *REGIONS, "--checkpoint-every", 20)
    slow = ("--straggler", *(f"worker={worker},base=0.1" for worker in range(4)))
    live = start("--resume", half, "--steps", 120, *slow)
    live.out = half
    before = len(live.events("joined"))
    live.wait_for_step(25, "w3")
    newest = {e["worker"]: e["pid"] for e in live.events("joined")[before:]}
    os.kill(newest["w3"], signal.SIGKILL)
    live.wait_for(lambda: len(live.events("returned")) == 2, "return")
    ended = live.ended()
    assert ended.code == 0, ended.stderr
    steps = {name: [m["step"] for m in live.lines("metrics.jsonl") if m["worker"] == name] for name in ("w0", "w3")}
    assert steps["w0"] == list(range(1, 121))
    begins = max(i for i in range(1, len(steps["w3"])) if steps["w3"][i] != steps["w3"][i - 1] + 1)
    assert (steps["w3"][begins] - 13) % 5 in (0, 1)
    assert steps["w3"][-1] == 120


@pytest.mark.long
def test_when_all_regions_die_the_last_checkpoint_goes_on(start: Start):
    slow = ("--straggler", *(f"worker={worker},base=0.1" for worker in range(4)))
    live = start(*GPT, "--steps", 40, *REGIONS, *slow, "--checkpoint-every", 5)
    live.wait_for_step(12, "w0")
    for victim in ("w0", "w2"):
        live.signal(signal.SIGKILL, victim)
    ended = live.ended()
    assert ended.code == 0, ended.stderr
    (restarted,) = live.events("restarted")
    assert restarted["from_checkpoint"]
    again = [m["step"] for m in live.lines("metrics.jsonl") if m["worker"] == "w0"]
    assert sorted(set(again)) == list(range(1, 41))
