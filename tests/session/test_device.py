"""Which device a worker computes on, and how the members of a group that have one each find out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from roadtrain.errors import UsageError
from roadtrain.session.device import (
    ComputeTime,
    backend_of,
    check_device,
    identity,
    peak_memory_bytes,
    pick_device,
    seed_batch,
    take_turn,
)

CPU = torch.device("cpu")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """As if torch saw two GPUs; the numbers of those that were made the current one."""
    chosen: list[int] = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "set_device_index", chosen.append)
    return chosen


def test_workers_of_a_machine_take_its_gpus_in_turn(two_gpus: list[int]):
    picked = [pick_device("auto", local) for local in range(3)]
    assert picked == [torch.device("cuda", 0), torch.device("cuda", 1), torch.device("cuda", 0)]
    assert two_gpus == [0, 1, 0]


def test_a_worker_takes_the_one_it_is_told(two_gpus: list[int]):
    assert [pick_device("cuda:1", local) for local in range(2)] == [torch.device("cuda", 1)] * 2
    assert pick_device("cpu", 1) == CPU
    assert two_gpus == [1, 1]


def test_a_script_finds_its_own_gpu_when_it_first_uses_one(two_gpus: list[int], monkeypatch: pytest.MonkeyPatch):
    later: list[Callable[[], None]] = []
    monkeypatch.setattr(torch.cuda, "_lazy_call", later.append)
    for wanted, local in (("auto", 1), ("cuda", 2), ("cuda:1", 0), ("cpu", 1)):
        take_turn(wanted, local)
    assert not two_gpus, "until then it may choose by itself which GPUs there are"
    for call in later:
        call()
    assert two_gpus == [1, 0, 1]


def test_a_script_that_has_left_itself_one_gpu_has_that(two_gpus: list[int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "_lazy_call", lambda call: call())
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    take_turn("auto", 1)
    assert two_gpus == [0]


@pytest.mark.parametrize("wanted", ["mps", "xpu:0", "cuda:2"])
def test_one_that_is_not_there_is_refused(two_gpus: list[int], wanted: str):
    with pytest.raises(UsageError, match=f"--device {wanted}, but"):
        check_device(wanted)


def test_time_of_a_cpu_leaves_out_what_was_waited(monkeypatch: pytest.MonkeyPatch):
    now = iter([10.0, 12.0, 20.0, 25.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    computing = ComputeTime(CPU)
    for waited_s in (0.5, 1.0):
        computing.begin()
        computing.end(waited_s)
    computing.add(0.25)
    assert computing.seconds() == 1.5 + 4.0 + 0.25


class Event:
    """One of a device's, which takes its time to come."""

    def __init__(self, at_ms: float) -> None:
        self.at_ms, self.come = at_ms, False

    def query(self) -> bool:
        return self.come

    def synchronize(self) -> None:
        self.come = True

    def elapsed_time(self, end: Event) -> float:
        assert self.come or end.come
        return end.at_ms - self.at_ms


def test_time_of_an_accelerator_is_read_when_its_kernels_have_run(monkeypatch: pytest.MonkeyPatch):
    events = [Event(at_ms) for at_ms in (0, 30, 100, 150)]
    left = iter(events)
    computing = ComputeTime(torch.device("cuda", 0))
    monkeypatch.setattr(computing, "_mark", lambda: next(left))
    for waited_s in (0.01, 0.0):
        computing.begin()
        computing.end(waited_s)
    assert computing.seconds() == 0.0, "nothing waits for the device"
    events[1].come = True
    assert computing.seconds() == pytest.approx(0.02)
    assert computing.seconds(all_of_it=True) == pytest.approx(0.07)


def test_draws_depend_on_seed_batch_and_worker_alone():
    def drawn(*numbers: int) -> float:
        seed_batch(CPU, *numbers)
        return float(torch.rand(()))

    assert drawn(1, 2, 3) == drawn(1, 2, 3)
    assert len({drawn(1, 2, 3), drawn(0, 2, 3), drawn(1, 1, 3), drawn(1, 2, 0)}) == 4


@pytest.mark.skipif(torch.backends.cuda.is_built(), reason="this torch can use CUDA")
def test_a_model_gets_as_far_as_its_gpu(two_gpus: list[int]):
    with pytest.raises((AssertionError, RuntimeError), match=r"(?i)cuda"):
        torch.nn.Linear(2, 2).to(pick_device("cuda"))


@pytest.mark.parametrize(
    ("identities", "backend"),
    [
        (["cuda a", "cuda b"], "cpu:gloo,cuda:nccl"),
        (["cuda a", "cuda a"], "shared"),
        (["cuda a", "cpu"], "shared"),
        (["mps", "mps"], "shared"),
        (["cpu", "cpu"], "gloo"),
    ],
)
def test_nccl_is_for_members_with_a_gpu_each(identities: list[str], backend: str):
    assert backend_of(identities, "shared") == backend


def test_a_cpu_is_like_any_other():
    assert identity(CPU) == "cpu"


def test_the_peak_is_what_the_process_has_held():
    pytest.importorskip("resource")
    before = peak_memory_bytes(CPU)
    held = torch.ones(100_000_000, dtype=torch.uint8)
    assert before > 10e6
    assert peak_memory_bytes(CPU) >= max(before, held.numel())
