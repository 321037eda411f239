"""Checkpoints that are written while the training goes on, and a process that is killed meanwhile."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from team import Gather, Regression, Team, far, perceptron, plan_for
from torch import Tensor, multiprocessing
from torch._C._distributed_c10d import FileStore
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from roadtrain.checkpoint.checkpoint import Checkpoints, Meta, Ranks, Shared
from roadtrain.errors import RunFailed

WAIT_S = 120
Gate = threading.Event


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Nothing is written to the disk before it is open."""
    opened, write = threading.Event(), FileSystemWriter.write_data

    def write_late(self: FileSystemWriter, *args: Any) -> Any:
        assert opened.wait(WAIT_S)
        return write(self, *args)

    monkeypatch.setattr(FileSystemWriter, "write_data", write_late)
    yield opened
    opened.set()


def at_step(trained: Team, step: int, act: Callable[[], None]) -> None:
    """Call `act` when w0 has done `step`."""
    word, log = trained.words[0], trained.words[0].log

    def listen(record: dict[str, Any]) -> None:
        log(record)
        if record["step"] == step:
            act()

    word.log = listen  # type: ignore[method-assign]


def named(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoint").glob("step-*"))


SGD: dict[str, dict[str, Any]] = {}
DILOCO: dict[str, dict[str, Any]] = {"sync": {"strategy": "diloco:3"}, "optimizer": {"name": "adamw", "lr": 0.02}}


@pytest.mark.parametrize("sections", [SGD, DILOCO], ids=["ssgd", "diloco"])
def test_training_goes_on_while_the_state_of_a_step_is_written(
    gather: Gather, gate: Gate, tmp_path: Path, sections: dict[str, dict[str, Any]]
) -> None:
    task, watch = Regression(perceptron), {"checkpoint_every": 3, "keep": 9}
    begun = gather(plan_for(2, job={"steps": 5}, watch=watch, **sections), task)
    then: dict[str, Tensor] = {}
    seen: list[list[str]] = []
    at_step(begun, 3, lambda: then.update({n: t.clone() for n, t in begun.jobs[0].model.state_dict().items()}))

    def after_two_more() -> None:
        seen.append(named(tmp_path))
        gate.set()

    at_step(begun, 5, after_two_more)
    assert begun.fit() == [True, True]
    assert seen == [[]], "step 5 was done before step 3 was written"
    kept = Checkpoints(tmp_path, 9).load()
    assert set(kept.steps.values()) == {3}
    assert far(kept.model, then) == 0.0
    assert far(kept.model, begun.model()) > 0.0


def test_what_falls_due_meanwhile_waits(gather: Gather, gate: Gate, tmp_path: Path) -> None:
    begun = gather(plan_for(1, job={"steps": 6}, watch={"checkpoint_every": 2, "keep": 9}), Regression(perceptron))
    at_step(begun, 4, gate.set)
    at_step(begun, 5, lambda: seen.append(named(tmp_path)))
    seen: list[list[str]] = []
    assert begun.fit() == [True]
    assert seen[0][:1] == ["step-00000002"]
    assert named(tmp_path) == [f"step-0000000{step}" for step in (2, 4, 6)], "nothing is left out"


@pytest.mark.parametrize("last", [None, 4], ids=["the end", "Ctrl-C"])
def test_a_run_ends_when_its_checkpoint_is_written(
    gather: Gather, gate: Gate, tmp_path: Path, last: int | None
) -> None:
    steps = 4 if last is None else 8
    begun = gather(plan_for(1, job={"steps": steps}, watch={"checkpoint_every": 3}), Regression(perceptron), last=last)
    stepped, done = threading.Event(), threading.Event()
    at_step(begun, 4, stepped.set)
    thread = threading.Thread(target=lambda: (begun.fit(), done.set()), daemon=True)
    thread.start()
    assert stepped.wait(WAIT_S)
    assert not done.is_set()
    assert named(tmp_path) == []
    gate.set()
    assert done.wait(WAIT_S)
    assert named(tmp_path) == ["step-00000003"]


def test_a_run_that_fails_has_its_checkpoint_written(gather: Gather, gate: Gate, tmp_path: Path) -> None:
    begun = gather(plan_for(1, watch={"checkpoint_every": 3}), Regression(perceptron))

    def fail() -> None:
        threading.Timer(0.05, gate.set).start()
        raise RuntimeError("a fault")

    at_step(begun, 5, fail)
    with pytest.raises(RuntimeError, match="a fault"):
        begun.fit()
    assert named(tmp_path) == ["step-00000003"]


# ------------------------------------------------------------------------------------------------ killed processes


def sharded(rank: int, folder: Path, where: str, pids: Any, words: Any) -> None:
    """Rank `rank` of 2 saves step 1; then step 2, in which rank 1 stands still at `where`, if given, until it is killed."""
    torch.set_num_threads(1)
    store = FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)
    value = distribute_tensor(torch.arange(8.0), init_device_mesh("cpu", (2,)), [Shard(0)])
    checkpoints, ranks = Checkpoints(folder, 9), Ranks(group, rank == 0)
    checkpoints.save_parts({"model": {"w": value}}, Meta("sgd", 1, {"0": 1}), ranks, lambda _: None)
    checkpoints.settle()
    if rank == 1 and where:
        call = getattr(FileSystemWriter, where)

        def stand_still(self: FileSystemWriter, *args: Any) -> Any:
            given = call(self, *args)
            pids.put(os.getpid())
            threading.Event().wait()
            return given

        setattr(FileSystemWriter, where, stand_still)
    checkpoints.save_parts({"model": {"w": value * 2}}, Meta("sgd", 2, {"0": 2}), ranks, lambda _: None)
    value.to_local().zero_()
    try:
        checkpoints.settle()
        words.put("written")
    except RunFailed as error:
        words.put(type(error).__name__)


def kill_at(where: str, folder: Path) -> str:
    """What becomes of rank 0 when rank 1 is killed at `where`, if anywhere."""
    context = multiprocessing.get_context("spawn")
    pids, words = context.Queue(), context.Queue()
    ranks = [context.Process(target=sharded, args=(rank, folder, where, pids, words)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    if where:
        os.kill(pids.get(timeout=WAIT_S), signal.SIGKILL)
    word = words.get(timeout=WAIT_S)
    for rank in ranks:
        rank.join(WAIT_S)
    return word


@pytest.mark.parametrize("where", [pytest.param("prepare_local_plan", marks=pytest.mark.long), "write_data"])
def test_a_rank_killed_while_it_writes_leaves_the_last_checkpoint(tmp_path: Path, where: str) -> None:
    assert kill_at(where, tmp_path) == "RunFailed", "the other one is told, and does not wait"
    assert named(tmp_path) == ["step-00000001"]
    assert torch.equal(Checkpoints(tmp_path, 9).load().model["w"], torch.arange(8.0))


def test_parts_are_those_of_the_step(tmp_path: Path) -> None:
    """Both set what they saved to zero while it is written."""
    assert kill_at("", tmp_path) == "written"
    assert torch.equal(Checkpoints(tmp_path, 9).load().model["w"], 2 * torch.arange(8.0))


def one(folder: Path, ready: Any) -> None:
    """One process saves step 1; then it stands still before the name of step 2."""
    torch.set_num_threads(1)
    checkpoints = Checkpoints(folder, 9)
    for step in (1, 2):
        shared = Shared({"w": torch.full((4,), float(step))}, {}, "sgd", step, {"0": step}, at=step)
        if step == 2:
            checkpoints._complete = lambda *_: (ready.put(os.getpid()), threading.Event().wait())  # type: ignore[method-assign]
        checkpoints.save(shared)
        checkpoints.settle()


def test_a_process_killed_before_the_name_is_given_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Queue()
    process = context.Process(target=one, args=(tmp_path, ready))
    process.start()
    os.kill(ready.get(timeout=WAIT_S), signal.SIGKILL)
    process.join(WAIT_S)
    assert named(tmp_path) == ["step-00000001"]
    kept = Checkpoints(tmp_path, 9)
    assert torch.equal(kept.load().model["w"], torch.ones(4))
    kept.save(Shared({"w": torch.full((4,), 2.0)}, {}, "sgd", 2, {"0": 2}, at=2))
    kept.settle()
    assert torch.equal(kept.load().model["w"], torch.full((4,), 2.0))
