"""Whoever was lost comes back as a newcomer: started again by whoever started it, or by itself where its process lives."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from live import ROADTRAIN, Live, Start, clean_environment, free_port, last_checkpoint

STEPS = 60
SLOW = ("--straggler", *(f"worker={worker},base=0.1" for worker in range(3)))
"""Seconds, so that there is time to come back."""
TRAINING = ("digits", "--steps", STEPS, "--workers", 3, "--batch", 16, "--log-every", 1, *SLOW)
STRATEGIES = {
    "ssgd": ("ssgd",),
    "central": ("ssgd", "--owners", "central"),
    "asgd": ("asgd", "--lr", 0.02),
    "ssp": ("ssp:2", "--lr", 0.02),
    "localsgd": ("localsgd:4",),
    "diloco": ("diloco:5", "--codec", "int8"),
    "streaming": ("streaming:6",),
}
LONG = ("ssgd", "central", "ssp", "localsgd", "streaming")
"""Of these, what the others do not show."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long) if n in LONG else n for n in STRATEGIES])
def test_a_killed_worker_comes_back(start: Start, name: str):
    live = start(*TRAINING, "--sync", *STRATEGIES[name])
    live.wait_for_step(8, "w0")
    live.signal(signal.SIGKILL, "w0")
    live.wait_for(lambda: live.events("returned"), "return of w0")
    ended = live.ended()
    assert ended.code == 0, ended.stderr
    assert ended.report["events"]["joined"] == 4
    assert ended.report["events"]["lost"] == 1
    assert live.step_of("w0") == STEPS, "it did not train to the end"
    assert ended.report["val_loss"] < 1.5  # ln 10 = 2.3 is chance
    if STRATEGIES[name][0] == "ssgd":
        assert last_checkpoint(live.out)["version"] == STEPS, "a round was lost or done twice"


def test_an_owner_and_then_its_standby_may_die(start: Start):
    live = start(*TRAINING, "--sync", "ssgd", "--owners", "central")
    live.wait_for_step(8, "w0")
    live.signal(signal.SIGKILL, "w0")
    live.wait_for(lambda: live.events("returned"), "return of w0")
    heir = live.events("handoff")[0]["to"][0]
    time.sleep(2.0)
    live.signal(signal.SIGKILL, heir)
    ended = live.ended()
    assert ended.code == 0, ended.stderr
    assert [event["worker"] for event in live.events("lost")] == ["w0", heir]
    assert last_checkpoint(live.out)["version"] == STEPS, "a round was lost or done twice"


# --------------------------------------------------------------------------------------- under somebody else's launcher


def ranks(out: Path, world: int, port: int, *words: object) -> list[Live]:
    """A process for each rank; the first one is `live` in `out`."""
    command = [str(ROADTRAIN), "run", *map(str, TRAINING[:3]), *map(str, TRAINING[5:]), *map(str, words)]
    command += ["--json", "--out", str(out)]
    place = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [Live(command, out, clean_environment(RANK=str(rank), **place)) for rank in range(world)]


def test_a_rank_that_stood_still_comes_back_by_itself(tmp_path: Path):
    running = ranks(tmp_path / "run", 3, free_port(), "--sync", "diloco:5")
    try:
        live = running[0]
        live.wait_for_step(8)
        os.kill(running[1].process.pid, signal.SIGSTOP)
        live.wait_for(lambda: live.events("lost"), "notice of the frozen rank")
        os.kill(running[1].process.pid, signal.SIGCONT)
        live.wait_for(lambda: live.events("returned"), "return of the frozen rank")
        ended = [one.ended() for one in running]
        assert [one.code for one in ended] == [0, 0, 0], [one.stderr for one in ended]
        assert "comes back as a newcomer" in ended[1].stderr
        assert live.step_of("w1") == STEPS
    finally:
        for one in running:
            one.end()


@pytest.mark.long
@pytest.mark.parametrize("sync", ["ssgd", "diloco"])
def test_all_of_the_first_ranks_host_stand_still_and_go_on(tmp_path: Path, sync: str):
    """Ctrl-Z of its launcher, and fg half a minute later: the coordinator is waited for, as its host takes connections."""
    running = ranks(tmp_path / "run", 3, free_port(), "--sync", *STRATEGIES[sync])
    try:
        live = running[0]
        live.wait_for_step(8)
        os.killpg(live.process.pid, signal.SIGSTOP)
        time.sleep(30.0)
        os.killpg(live.process.pid, signal.SIGCONT)
        ended = [one.ended() for one in running]
        assert [one.code for one in ended] == [0, 0, 0], [one.stderr for one in ended]
        assert not live.events("lost")
        assert {live.step_of(worker) for worker in ("w0", "w1", "w2")} == {STEPS}
    finally:
        for one in running:
            one.end()


@pytest.mark.long
def test_all_of_a_local_run_stand_still_and_go_on(start: Start):
    live = start(*TRAINING, "--sync", "ssgd")
    live.wait_for_step(8)
    os.killpg(live.process.pid, signal.SIGSTOP)
    time.sleep(30.0)
    os.killpg(live.process.pid, signal.SIGCONT)
    ended = live.ended()
    assert ended.code == 0, ended.stderr
    assert not live.events("lost")
    assert last_checkpoint(live.out)["version"] == STEPS, "a round was lost or done twice"


def test_a_rank_that_is_started_again_comes_back(tmp_path: Path):
    port = free_port()
    running = ranks(tmp_path / "run", 3, port, "--sync", "ssgd")
    try:
        live = running[0]
        live.wait_for_step(8)
        running[1].process.kill()
        live.wait_for(lambda: live.events("lost"), "notice of the killed rank")
        again = ranks_again(running[1], port)
        running.append(again)
        live.wait_for(lambda: live.events("returned"), "return of the killed rank")
        ended = [live.ended(), again.ended(), running[2].ended()]
        assert [one.code for one in ended] == [0, 0, 0], [one.stderr for one in ended]
        assert live.step_of("w1") == STEPS
    finally:
        for one in running:
            one.end()


def ranks_again(before: Live, port: int) -> Live:
    """The same process once more, as its launcher would start it."""
    command = [str(word) for word in before.process.args]  # type: ignore[union-attr]
    place = {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return Live(command, before.out, clean_environment(**place))


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_rank_that_waits_says_for_whom_and_can_be_stopped(tmp_path: Path, number: int):
    place = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [str(ROADTRAIN), "run", "xor", "--steps", "5", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        command, env=clean_environment(**place), cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("w1 waits for the coordinator at 127.0.0.1:")
        process.send_signal(number)
        begin = time.monotonic()
        _, rest = process.communicate(timeout=60)
        assert time.monotonic() - begin < 10.0
        assert process.returncode == 130
        assert "Traceback" not in rest
    finally:
        process.kill()
