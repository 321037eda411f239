"""What follows when a run has failed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from roadtrain.checkpoint.folder import of_step, seal
from roadtrain.errors import RunFailed, UsageError
from roadtrain.fleet.worker import is_out_of_memory
from roadtrain.launch.restart import after_failure
from roadtrain.launch.run_request import RunRequest
from roadtrain.membership.coordinator import Coordinator
from roadtrain.membership.registry import Registry
from roadtrain.plan import Plan, parse


def order(folder: Path, layout: str, batch: int = 8, micro_batches: int | None = None) -> RunRequest:
    plan = Plan()
    plan = replace(
        plan,
        job=replace(plan.job, batch=batch),
        layout=replace(plan.layout, spread=(layout,), micro_batches=micro_batches),
        place=replace(plan.place, workers=2),
    )
    return RunRequest("run", plan, folder, None)


def failed(error: Exception | None = None, *, killed: bool = False, out_of_memory: bool = False) -> Coordinator:
    coordinator = Coordinator(Registry(2))
    coordinator.error = error or RunFailed("all workers are lost")  # type: ignore[assignment]
    coordinator.killed, coordinator.out_of_memory = killed, out_of_memory
    return coordinator


def test_a_killed_rank_goes_on_from_the_checkpoint_there_is(tmp_path: Path) -> None:
    before = order(tmp_path, "fsdp:2")
    again = after_failure(before, failed(killed=True))
    assert again == before
    partial = tmp_path / "checkpoint" / ".partial"
    partial.mkdir(parents=True)
    seal(partial, of_step(partial.parent, 4), {})
    again = after_failure(before, failed(killed=True))
    assert again is not None
    assert again.resume == 4


@pytest.mark.parametrize(
    ("layout", "coordinator"),
    [
        ("fsdp:2", failed()),
        ("dp:2", failed(killed=True)),
        ("fsdp:2", failed(UsageError("no such thing"), killed=True)),
    ],
    ids=["a fault of its own", "whoever is left goes on", "a mistake"],
)
def test_other_failures_stand(tmp_path: Path, layout: str, coordinator: Coordinator) -> None:
    assert after_failure(order(tmp_path, layout), coordinator) is None


@pytest.mark.parametrize(
    ("layout", "batch", "now", "then"),
    [("dp:2", 8, None, 2), ("fsdp:2", 8, 4, 8), ("pp:2", 8, None, 4), ("fsdp:2", 8, 8, None), ("mp:2", 8, None, None)],
)
def test_too_little_memory_makes_smaller_pieces(
    tmp_path: Path, layout: str, batch: int, now: int | None, then: int | None
) -> None:
    again = after_failure(order(tmp_path, layout, batch, now), failed(out_of_memory=True))
    assert (again.plan.layout.micro_batches if again else None) == then
    if again is not None:
        assert again.plan.job.batch == batch
        assert parse((tmp_path / "plan.toml").read_text()) == again.plan


def test_what_running_out_of_memory_looks_like() -> None:
    wrapped = RuntimeError("stage 0 failed to run forward")
    wrapped.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    host = RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: ...")
    assert all(map(is_out_of_memory, (MemoryError(), host, wrapped, torch.OutOfMemoryError("..."))))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
