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
SAMPLES = STEPS * 3 * 16
SLOW = ("--straggler", *(f"worker={worker},base=0.1" for worker in range(3)))
"""Seconds, so that there is time to come back."""
TRAINING = ("digits", "--steps", STEPS, "--workers", 3, "--batch", 16, "--log-every", 1, *SLOW)
STRATEGIES = {
    "ssgd": ("ssgd",),
    "central": ("ssgd", "--owners", "central"),
    "clip": ("ssgd", "--clip", 1.0),
    "allreduce": ("ssgd:allreduce",),
    "asgd": ("asgd", "--lr", 0.02),
    "ssp": ("ssp:2", "--lr", 0.02),
    "localsgd": ("localsgd:4",),
    "diloco": ("diloco:5", "--codec", "int8"),
    "streaming": ("streaming:6",),
}
LONG = ("ssgd", "clip", "central", "allreduce", "asgd", "ssp", "localsgd", "streaming")
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
    if name == "allreduce":
        assert live.step_of("w0") == STEPS, "it did not train to the end"
    else:
        assert ended.report["samples"] == SAMPLES, "not every sample counts"
    assert ended.report["val_loss"] < 1.5  # ln 10 = 2.3 is chance


@pytest.mark.long
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
    assert ended.report["samples"] == SAMPLES, "not every sample counts"


# ------------------------------------------------------------------------------------------------------ scripts

SCRIPT = """
import sys, time, torch, roadtrain as rt
from torch import nn

torch.manual_seed(0)
x = torch.randn(3000, 8, dtype=torch.float64)
y = x[:, :1] * x[:, 1:2] + x[:, 2:3]
model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Linear(32, 1)).double()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
sync = rt.attach(model, optimizer, sync=sys.argv[1])
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 20, 0.8)
sync.register(schedule=schedule)
data = torch.utils.data.TensorDataset(x, y)
own = torch.utils.data.DataLoader(data, batch_size=48)
for bx, by in own if sys.argv[2] == "own" else sync.loader(data, batch_size=16, epochs=1):
    loss = nn.functional.mse_loss(model(bx), by)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    sync.log(loss=loss)
    time.sleep(0.1)
sync.finish()
weights = sum(float(p.detach().double().sum()) for p in model.parameters())
print("ENDED", sync.report()["steps"], weights, optimizer.param_groups[0]["lr"], int(model[1].num_batches_tracked))
"""
BATCHES = 63
"""Of each of three workers."""
OF_SCRIPTS = ("ssgd", "diloco:5", "asgd", "ssp:2", "localsgd:4", "streaming:6")
LONG_OF_SCRIPTS = ("diloco:5", "asgd", "ssp:2", "localsgd:4", "streaming:6")


def endings(out: Path) -> dict[str, list[str]]:
    """What each worker's script said at its end."""
    logs = {log.stem: log.read_text() for log in (out / "logs").glob("w*.log")}
    return {name: line.split()[1:] for name, text in logs.items() for line in text.splitlines() if "ENDED" in line}


@pytest.mark.parametrize(
    "sync", [pytest.param(s, marks=pytest.mark.long) if s in LONG_OF_SCRIPTS else s for s in OF_SCRIPTS]
)
def test_a_killed_worker_of_a_script_comes_back(start: Start, tmp_path: Path, sync: str):
    script = tmp_path / "own.py"
    script.write_text(SCRIPT)
    live = start("--workers", 3, script, sync, "loader")
    live.wait_for_step(8, "w0")
    live.signal(signal.SIGKILL, "w0")
    live.wait_for(lambda: live.events("returned"), "return of w0")
    ended = live.ended()
    assert ended.code == 0, ended.stderr
    said = endings(live.out)
    assert sorted(said) == ["w0", "w1", "w2"]
    assert [said[name][0] for name in ("w1", "w2")] == [str(BATCHES)] * 2
    assert 0 < int(said["w0"][0]) < BATCHES, "its data began anew"
    assert len({tuple(words[1:]) for words in said.values()}) == 1, f"weights, learning rate, counters: {said}"
    assert said["w0"][3] == str(BATCHES)


@pytest.mark.long
def test_a_script_whose_data_nobody_knows_stays_away(start: Start, tmp_path: Path):
    script = tmp_path / "own.py"
    script.write_text(SCRIPT)
    live = start("--workers", 3, script, "ssgd", "own")
    live.wait_for_step(8, "w1")
    live.signal(signal.SIGKILL, "w1")
    live.wait_for(lambda: live.events("left"), "word that it stays away")
    ended = live.ended()
    assert ended.code == 0, ended.stderr
    assert sorted(endings(live.out)) == ["w0", "w2"]
    assert "w1 stays away: the script has its data from elsewhere" in (live.out / "logs" / "w1.log").read_text()


# --------------------------------------------------------------------------------------- under somebody else's launcher


def ranks(out: Path, world: int, port: int, *words: object) -> list[Live]:
    """A process for each rank; the first one is `live` in `out`."""
    return launched(out, world, port, *TRAINING[:3], *TRAINING[5:], *words)


def launched(out: Path, world: int, port: int, *words: object) -> list[Live]:
    """`roadtrain run` as each of so many ranks."""
    command = [str(ROADTRAIN), "run", "--json", "--out", str(out), *map(str, words)]
    place = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [Live(command, out, clean_environment(RANK=str(rank), **place)) for rank in range(world)]


@pytest.mark.parametrize("sync", ["diloco:5", pytest.param("ssgd:allreduce", marks=pytest.mark.long)])
def test_a_rank_that_stood_still_comes_back_by_itself(tmp_path: Path, sync: str):
    running = ranks(tmp_path / "run", 3, free_port(), "--sync", sync)
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
        if sync == "diloco:5":
            assert ended[0].report["samples"] == SAMPLES, "not every sample counts"
        else:
            assert live.step_of("w1") == STEPS
    finally:
        for one in running:
            one.end()


@pytest.mark.long
def test_a_rank_of_a_script_that_stood_still_comes_back_by_itself(tmp_path: Path):
    """As the same process, which runs the script from its beginning."""
    script = tmp_path / "own.py"
    script.write_text(SCRIPT)
    running = launched(tmp_path / "run", 3, free_port(), script, "ssgd", "loader")
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
        of_ranks = [line.split()[2:] for one in ended[1:] for line in one.stdout.splitlines() if "ENDED" in line]
        assert len(of_ranks) == 2
        assert of_ranks[0] == of_ranks[1], "weights, learning rate, counters"
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


@pytest.mark.long
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
        assert ended[0].report["samples"] == SAMPLES, "not every sample counts"
    finally:
        for one in running:
            one.end()


def ranks_again(before: Live, port: int, rank: int = 1, world: int = 3) -> Live:
    """The same process once more, as its launcher would start it."""
    command = [str(word) for word in before.process.args]  # type: ignore[union-attr]
    place = {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
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
