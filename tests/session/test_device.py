"""Which device a worker computes on, and how the members of a group that have one each find out."""

from __future__ import annotations

import pytest
import torch

from roadtrain.session.device import backend_of, identity, peak_memory_bytes, pick_device, seed_batch

CPU = torch.device("cpu")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """As if torch saw two GPUs; the devices that were made the current one."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


def test_workers_of_a_machine_take_its_gpus_in_turn(two_gpus: list[torch.device]):
    picked = [pick_device("auto", local) for local in range(3)]
    assert [device.index for device in picked] == [0, 1, 0]
    assert two_gpus == picked


def test_a_worker_that_wants_the_cpu_leaves_gpus_alone(two_gpus: list[torch.device]):
    assert pick_device("cpu", 1) == CPU
    assert two_gpus == []


def test_draws_depend_on_seed_batch_and_worker_alone():
    def drawn(*numbers: int) -> float:
        seed_batch(CPU, *numbers)
        return float(torch.rand(()))

    assert drawn(1, 2, 3) == drawn(1, 2, 3)
    assert len({drawn(1, 2, 3), drawn(0, 2, 3), drawn(1, 1, 3), drawn(1, 2, 0)}) == 4


@pytest.mark.skipif(torch.backends.cuda.is_built(), reason="this torch can use CUDA")
def test_a_model_gets_as_far_as_its_gpu(two_gpus: list[torch.device]):
    with pytest.raises((AssertionError, RuntimeError), match=r"(?i)cuda"):
        torch.nn.Linear(2, 2).to(pick_device("cuda"))


@pytest.mark.parametrize(
    ("identities", "backend"),
    [
        (["a", "b"], "cpu:gloo,cuda:nccl"),
        (["a", "a"], "gloo"),
        (["a", ""], "gloo"),
        (["", ""], "gloo"),
    ],
)
def test_nccl_is_for_members_with_a_gpu_each(identities: list[str], backend: str):
    assert backend_of(identities) == backend


def test_a_cpu_is_like_any_other():
    assert identity(CPU) == ""


def test_the_peak_is_what_the_process_has_held():
    before = peak_memory_bytes(CPU)
    held = torch.ones(100_000_000, dtype=torch.uint8)
    assert before > 10e6
    assert peak_memory_bytes(CPU) >= max(before, held.numel())
