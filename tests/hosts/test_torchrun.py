"""Scripts that were not written for roadtrain, unchanged, in the styles that people have (tests/torchrun/scripts)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from live import ROADTRAIN, Ended, clean_environment
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DistributedSampler

SCRIPTS = Path(__file__).parents[1] / "torchrun" / "scripts"
sys.path.append(str(SCRIPTS))
from goods import data  # noqa: E402

Dump = dict[str, Any]
DDP = ("trainer_class", "get_batch", "image_loop", "two_models")


def run(
    folder: Path, name: str, *flags: str, words: tuple[str, ...] = (), code: int = 0, **more: str
) -> tuple[Ended, list[Dump]]:
    """`roadtrain run FLAGS --json SCRIPT WORDS` with two workers; what became of it, and what each of them dumped."""
    folder.mkdir(exist_ok=True)
    command = [
        str(ROADTRAIN),
        "run",
        "--out",
        str(folder / "run"),
        "--json",
        *flags,
        str(SCRIPTS / f"{name}.py"),
        *words,
    ]
    environment = clean_environment(DUMP=str(folder), OMP_NUM_THREADS="1", **more)
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == code, done.stderr
    return Ended(done.returncode, done.stdout, done.stderr), dumps(folder)


def dumps(folder: Path) -> list[Dump]:
    return [torch.load(folder / f"{rank}.pt") for rank in range(2) if (folder / f"{rank}.pt").is_file()]


def by_torchrun(folder: Path, name: str, *words: str) -> list[Dump]:
    """What torchrun itself comes to."""
    folder.mkdir()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = clean_environment(DUMP=str(folder), OMP_NUM_THREADS="1", PYTHONPATH=os.environ.get("PYTHONPATH", ""))
    subprocess.run([*launcher, str(SCRIPTS / f"{name}.py"), *words], env=environment, check=True, timeout=200)
    return dumps(folder)


def far(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest relative distance of two tensors of one name."""
    assert a.keys() == b.keys()
    return max(float((a[n].double() - b[n].double()).norm() / (b[n].double().norm() + 1e-12)) for n in a)


def replicas(first: Tensor, steps: int, period: int) -> tuple[Tensor, Tensor]:
    """The weights of bare_loop.py when two replicas are averaged after every `period` steps, in this process: as they were agreed
    on last, and as the first replica holds them."""
    models = [nn.Linear(16, 4) for _ in range(2)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in models]
    train, agreed = data(264), first
    orders = [list(DistributedSampler(train, 2, rank, shuffle=True, seed=3)) for rank in range(2)]
    torch.manual_seed(0)
    origin = nn.Linear(16, 4)
    assert torch.equal(origin.weight, first)
    for model in models:
        model.load_state_dict(origin.state_dict())
    for step in range(1, steps + 1):
        for model, optimizer, order in zip(models, optimizers, orders, strict=True):
            numbers = order[12 * (step - 1) : 12 * step]
            optimizer.zero_grad()
            F.cross_entropy(model(train.tensors[0][numbers]), train.tensors[1][numbers]).backward()
            optimizer.step()
        if step % period == 0:
            with torch.no_grad():
                for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
                    q.copy_(p.copy_((p + q) / 2))
            agreed = models[0].weight.detach().clone()
    return agreed, models[0].weight.detach()


def test_a_strategy_takes_the_place_of_all_reduce(tmp_path: Path) -> None:
    """11 steps of localsgd:4: what rank 0 saves was agreed on after 8; metrics and barriers go over Gloo as ever."""
    ended, (one, other) = run(tmp_path, "bare_loop", "--workers", "2", "--sync", "localsgd:4", NCCL="yes")
    assert "is of gloo, and not of nccl" in ended.stderr
    agreed, own = replicas(one["first"], one["steps"], 4)
    assert one["steps"] == other["steps"] == 11
    assert torch.equal(one["first"], other["first"])
    torch.testing.assert_close(one["weights"]["module.weight"], agreed)
    assert (agreed - own).norm() > 1e-3 * own.norm()
    assert far(one["own"], other["own"]) == 0.0
    report = ended.report
    assert report["steps"] == 22
    assert report["bytes"]["sent"] > 0


def test_a_script_runs_as_under_torchrun(tmp_path: Path) -> None:
    ended, (one, other) = run(tmp_path, "own_collectives", "--nproc-per-node", "2", "--sync", "diloco:5")
    lines = [line for line in ended.stderr.splitlines() if "diloco:5" in line]
    assert len(lines) == 1
    assert "is not applied" in lines[0]
    model, (x, y, _) = nn.Linear(16, 4), data(80).tensors
    torch.manual_seed(0)
    model.load_state_dict(nn.Linear(16, 4).state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(x[16 * step : 16 * step + 16]), y[16 * step : 16 * step + 16]).backward()
        optimizer.step()
    assert far(one["weights"], other["weights"]) == 0.0
    assert far(one["weights"], dict(model.state_dict())) < 1e-5


def test_a_script_of_one_process_becomes_data_parallel(tmp_path: Path) -> None:
    """50 samples, two workers, batches of 8: each sample once an epoch, the last step has fewer; held-out ones all see."""
    _, (one, other) = run(tmp_path, "one_process", "--workers", "2", "--shard-data")
    assert far(one["first"], other["first"]) > 0
    assert far(one["weights"], other["weights"]) == 0.0
    assert one["length"] == len(one["seen"]) // 2 == len(other["seen"]) // 2
    assert one["evaluated"] == other["evaluated"] == 40
    model, (x, y, _) = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4)), data(50).tensors
    model.load_state_dict(one["first"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    steps = [a + b for a, b in zip(one["seen"], other["seen"], strict=True)]
    for numbers in steps:
        optimizer.zero_grad()
        F.cross_entropy(model(x[numbers]), y[numbers]).backward()
        optimizer.step()
    for epoch in (steps[: len(steps) // 2], steps[len(steps) // 2 :]):
        assert sorted(number for numbers in epoch for number in numbers) == list(range(50))
    assert far(one["weights"], dict(model.state_dict())) < 1e-5


def test_data_is_not_dealt_out_twice(tmp_path: Path) -> None:
    ended, _ = run(tmp_path, "bare_loop", "--workers", "2", "--shard-data", code=2)
    assert "makes a process group" in ended.stderr
    assert "leave --shard-data out" in ended.stderr


@pytest.mark.long
def test_a_script_that_attaches_itself_is_not_sharded(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "examples" / "own_loop.py"
    words = [str(ROADTRAIN), "run", "--workers", "2", "--shard-data", "--out", str(tmp_path / "run"), str(script)]
    done = subprocess.run(words, env=clean_environment(), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "this one has attached to a run itself" in done.stderr


@pytest.mark.long
def test_a_worker_that_dies_ends_it(tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text(
        "import os, signal, time\nimport torch.distributed as dist\ndist.init_process_group('gloo')\ndist.barrier()\n"
        "os.kill(os.getpid(), signal.SIGKILL) if dist.get_rank() else time.sleep(60)\n"
    )
    words = [str(ROADTRAIN), "run", "--workers", "2", "--out", str(tmp_path / "run"), str(tmp_path / "dies.py")]
    done = subprocess.run(words, env=clean_environment(), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "w1 ended, and its script cannot go on without it" in done.stderr


@pytest.mark.long
@pytest.mark.parametrize("name", DDP)
def test_ssgd_and_no_strategy_come_to_what_torchrun_comes_to(tmp_path: Path, name: str) -> None:
    words = ("2",) if name == "trainer_class" else ()
    wanted = by_torchrun(tmp_path / "torchrun", name, *words)[0]["weights"]
    for strategy in ((), ("--sync", "ssgd")):
        folder = tmp_path / f"run{len(strategy)}"
        _, found = run(folder, name, "--standalone", "--nproc_per_node=2", *strategy, words=words)
        assert far(found[0]["weights"], wanted) < 1e-5
        if strategy:  # DistributedDataParallel lets buffers differ
            assert far(found[1]["weights"], found[0]["weights"]) == 0.0


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["localsgd:4", "diloco:3", "streaming:4", "async-diloco:4", "asgd"])
@pytest.mark.parametrize("name", ["get_batch", "two_models"])
def test_workers_end_with_one_model(tmp_path: Path, name: str, strategy: str) -> None:
    ended, (one, other) = run(tmp_path, name, "--workers", "2", "--sync", strategy, "--codec", "int8")
    if strategy == "asgd" and name == "two_models":
        assert "asgd is not applied: the script has 2 optimizers" in ended.stderr
    if strategy in ("localsgd:4", "diloco:3") or (name == "get_batch" and strategy == "streaming:4"):
        assert far(one["weights"], other["weights"]) == 0.0
    elif name == "get_batch":  # each worker's answers were rounded by themselves
        assert far(one["weights"], other["weights"]) < 0.01


@pytest.mark.long
def test_a_snapshot_is_gone_on_from(tmp_path: Path) -> None:
    """One epoch, then the same command for two: the second begins with what the first has saved."""
    for epochs in ("1", "2"):
        flags = ("--workers", "2", "--sync", "localsgd:2", "--out", str(tmp_path / f"run{epochs}"))
        ended, found = run(tmp_path, "trainer_class", *flags, words=(epochs,))
        assert ended.report["steps"] == 8
    _, straight = run(tmp_path / "whole", "trainer_class", "--workers", "2", "--sync", "localsgd:2", words=("2",))
    assert far(found[0]["weights"], straight[0]["weights"]) < 1e-5


@pytest.mark.long
@pytest.mark.parametrize(("name", "package"), [("accelerated", "accelerate"), ("fabricated", "lightning_fabric")])
def test_frameworks(tmp_path: Path, name: str, package: str) -> None:
    pytest.importorskip(package)
    wanted = by_torchrun(tmp_path / "torchrun", name)[0]
    _, plain = run(tmp_path / "plain", name, "--workers", "2")
    assert plain[0]["world"] == wanted["world"] == 2
    assert far(plain[0]["weights"], wanted["weights"]) < 1e-5
    ended, (one, other) = run(tmp_path / "rerouted", name, "--workers", "2", "--sync", "localsgd:5")
    assert far(one["weights"], other["weights"]) == 0.0
    assert 1e-5 < far(one["weights"], wanted["weights"]) < 0.5
    assert ended.report["bytes"]["sent"] > 0
