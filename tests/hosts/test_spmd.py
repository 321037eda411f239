"""Under somebody else's launcher each process is one worker, and the first one also has the coordinator."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from live import ROADTRAIN, Ended, clean_environment, free_port

WORDS = ("run", "xor", "--steps", "30", "--batch", "64", "--sync", "ssgd", "--json", "--out")


def rank_environment(rank: int, world: int, port: int, address: str = "127.0.0.1") -> dict[str, str]:
    return clean_environment(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR=address, MASTER_PORT=str(port))


def together(commands: Sequence[Sequence[str]], environments: Sequence[dict[str, str]], folder: Path) -> list[Ended]:
    """Run processes side by side; what became of each."""
    running = [
        subprocess.Popen(list(line), env=e, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for line, e in zip(commands, environments, strict=True)
    ]
    try:
        said = [process.communicate(timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
    return [Ended(process.returncode, *words) for process, words in zip(running, said, strict=True)]


def alone(environment: dict[str, str], folder: Path, *more: str) -> Ended:
    command = [str(ROADTRAIN), *WORDS, str(folder / "run"), *more]
    return together([command], [environment], folder)[0]


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.long)])
def test_every_rank_is_a_worker(tmp_path: Path, world: int):
    port, out = free_port(), tmp_path / "run"
    environments = [rank_environment(rank, world, port) for rank in range(world)]
    ended = together([[str(ROADTRAIN), *WORDS, str(out)]] * world, environments, tmp_path)
    assert [process.code for process in ended] == [0] * world, [process.stderr for process in ended]
    assert all(process.stdout == "" for process in ended[1:])
    report = ended[0].report
    assert report["status"] == "finished"
    assert report["samples"] == 30 * world * 64
    assert [worker["id"] for worker in report["workers"]] == [f"w{rank}" for rank in range(world)]
    assert report["events"] == {"joined": world, "lost": 0, "handoffs": 0}
    assert report["bytes"]["sent"] == report["bytes"]["received"] > 0
    assert json.loads((out / "report.json").read_text()) == report
    assert (out / "model.safetensors").is_file()


def test_under_srun(tmp_path: Path):
    """Slurm numbers its processes in its own way; where to meet is exported by whoever wrote the job."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environments = [
        clean_environment(SLURM_PROCID=str(task), SLURM_NTASKS="2", SLURM_LOCALID=str(task), **where)
        for task in range(2)
    ]
    out = tmp_path / "run"
    ended = together([[str(ROADTRAIN), *WORDS, str(out)]] * 2, environments, tmp_path)
    assert [process.code for process in ended] == [0, 0], [process.stderr for process in ended]
    assert [worker["id"] for worker in ended[0].report["workers"]] == ["w0", "w1"]


@pytest.mark.parametrize("sync", ["ssgd", pytest.param("ssgd:allreduce", marks=pytest.mark.long)])
def test_under_torchrun(tmp_path: Path, sync: str):
    """torchrun's own store sits on MASTER_PORT; the coordinator finds another one."""
    out = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launcher += ["--master-port", str(free_port()), "-m", "roadtrain"]
    ended = together([[*launcher, *WORDS, str(out), "--sync", sync]], [clean_environment()], tmp_path)[0]
    assert ended.code == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["status"] == "finished"
    assert report["samples"] == 30 * 2 * 64
    assert len({event["pid"] for event in joined(out)}) == 2


def joined(out: Path) -> list[dict]:
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "joined"]


def test_one_rank_alone(tmp_path: Path):
    ended = alone(rank_environment(0, 1, free_port()), tmp_path, "--steps", "5")
    assert ended.code == 0, ended.stderr
    assert ended.report["samples"] == 5 * 64


# -------------------------------------------------------------------------------------------------------- mistakes


def assert_refused(ended: Ended, *words: str) -> None:
    assert ended.code == 2, ended.stderr
    assert ended.stdout == ""
    lines = ended.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert all(line.startswith("hint: ") for line in lines[1:])
    assert len(lines) <= 2
    assert all(word in ended.stderr for word in words)


def test_beyond_this_machine_a_token_is_needed(tmp_path: Path):
    ended = alone(rank_environment(0, 2, free_port(), "10.1.2.3"), tmp_path)
    assert_refused(ended, "10.1.2.3", "ROADTRAIN_TOKEN")


def test_a_port_in_use(tmp_path: Path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ended = alone(rank_environment(0, 2, port), tmp_path)
    assert_refused(ended, str(port), "in use")


@pytest.mark.long
def test_all_ranks_go_on_from_a_checkpoint(tmp_path: Path):
    """The first one holds the folder, and the others do not take that for another run."""
    out = tmp_path / "run"
    for words in ([*WORDS, str(out)], ["run", "--resume", str(out), "--steps", "50", "--json"]):
        port = free_port()
        ended = together(
            [[str(ROADTRAIN), *words]] * 2, [rank_environment(rank, 2, port) for rank in range(2)], tmp_path
        )
        assert [process.code for process in ended] == [0, 0], [process.stderr for process in ended]
    assert [worker["steps"] for worker in ended[0].report["workers"]] == [20, 20]
