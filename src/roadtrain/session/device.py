"""On what a worker computes, and in which numbers."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from typing import Any, cast

import torch

from roadtrain.errors import UsageError

DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp16": torch.float32, "fp64": torch.float64}
"""Dtype of the parameters for each precision; bf16 and fp16 compute in it and keep fp32 parameters."""


def pick_device(wanted: str, local: int = 0) -> torch.device:
    """The device of the worker that is number `local` on its machine, and the process's current one from now on: workers take
    GPUs in turn, and share them where there are too few. Raises UsageError for CUDA where there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda, but torch sees no CUDA device here", "use --device cpu or auto")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def seed_batch(device: torch.device, seed: int, number: int, slot: int) -> None:
    """Seed the random numbers of the CPU and of `device` for batch `number` of the worker in `slot`: dropout and the like then
    depend on the batch alone, so that a resumed run repeats what the first would have done.

    torch.manual_seed would note a stack trace for every kind of device that is never used, a third of a millisecond each time.
    """
    value = hash((seed, number, slot)) & 0x7FFFFFFF
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)


def identity(device: torch.device) -> str:
    """What tells a GPU from all others, on any machine; empty for a CPU."""
    if device.type != "cuda":
        return ""
    properties = cast("Any", torch.cuda.get_device_properties(device))  # pyright: ignore[reportUnknownMemberType]
    return str(properties.uuid)


def backend_of(identities: Sequence[str]) -> str:
    """Of a process group whose members compute on these devices: NCCL where each has a GPU of its own, beside Gloo for what is
    in the host's memory. Otherwise Gloo alone, which members on one GPU can share."""
    alone = all(identities) and len(set(identities)) == len(identities)
    return "cpu:gloo,cuda:nccl" if alone else "gloo"


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that this process has held: of its GPU, or of the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
