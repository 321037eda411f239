"""On what a worker computes, and in which numbers."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import torch

from roadtrain.errors import UsageError

DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp16": torch.float32, "fp64": torch.float64}
"""Dtype of the parameters for each precision; bf16 and fp16 compute in it and keep fp32 parameters."""


def check_device(wanted: str) -> torch.device | None:
    """The kind of accelerator that `wanted` (auto, cpu, cuda, cuda:1, mps, xpu) means here; None for the CPU. Raises UsageError
    for one that torch does not see."""
    kind, _, number = wanted.partition(":")
    if kind == "cpu":
        return None
    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if kind == "auto":
        return there
    if there is None or there.type != kind:
        raise UsageError(f"--device {wanted}, but torch sees no {kind.upper()} device here", "use --device cpu or auto")
    if number and int(number) >= torch.accelerator.device_count():
        raise UsageError(f"--device {wanted}, but there are {torch.accelerator.device_count()}", "they count from 0")
    return there


def pick_device(wanted: str, local: int = 0) -> torch.device:
    """The device of the worker that is number `local` on its machine, and the process's current one from now on: workers take
    accelerators in turn, and share them where there are too few. Raises UsageError as `check_device` does."""
    kind = check_device(wanted)
    if kind is None:
        return torch.device("cpu")
    number = wanted.partition(":")[2]
    index = _index(number, local)
    torch.accelerator.set_device_index(index)
    return torch.device(kind.type, index)


def take_turn(wanted: str, local: int) -> None:
    """Let a script that says "cuda" mean the GPU of worker number `local` of its machine, as `pick_device` picks it. That is done
    when the script first uses one: until then it may choose by CUDA_VISIBLE_DEVICES, and fork."""
    kind, _, number = wanted.partition(":")
    there = torch.accelerator.current_accelerator()
    later = None if there is None or kind == "cpu" else getattr(torch.get_device_module(there), "_lazy_call", None)
    if later is not None:
        later(lambda: torch.accelerator.set_device_index(_index(number, local)))


def _index(number: str, local: int) -> int:
    """Of the accelerator that was named by number, or else in turn."""
    return int(number) if number else local % torch.accelerator.device_count()


def check_precision(precision: str, device: torch.device) -> None:
    """Raises UsageError where `device` would only imitate it, slower than fp32."""
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UsageError(f"{torch.cuda.get_device_name(device)} computes no bf16", "use --precision fp16 or fp32")


def seed_batch(device: torch.device, seed: int, number: int, slot: int) -> None:
    """Seed the random numbers of the CPU and of `device` for batch `number` of the worker in `slot`: dropout and the like then
    depend on the batch alone, so that a resumed run repeats what the first would have done.

    torch.manual_seed would note a stack trace for every kind of device that is never used, a third of a millisecond each time.
    """
    value = hash((seed, number, slot)) & 0x7FFFFFFF
    torch.default_generator.manual_seed(value)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(value)


class ComputeTime:
    """Seconds that a device computes. An accelerator's kernels run after they are asked for: events among them tell when, and
    are read when somebody asks, so that nothing waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._total_s = device, 0.0
        self._laps: deque[tuple[torch.Event, torch.Event, float]] = deque()
        self._begin: torch.Event | None = None
        self._begin_s = 0.0

    def begin(self) -> None:
        """What follows is computing."""
        if self._device.type == "cpu":
            self._begin_s = time.perf_counter()
        else:
            self._begin = self._mark()

    def end(self, waited_s: float) -> None:
        """It has been asked for, with so many seconds in it in which this worker waited for others."""
        if self._begin is None:
            self._total_s += time.perf_counter() - self._begin_s - waited_s
        else:
            self._laps.append((self._begin, self._mark(), waited_s))

    def add(self, seconds: float) -> None:
        """Somebody else has measured."""
        self._total_s += seconds

    def seconds(self, *, all_of_it: bool = False) -> float:
        """So far; `all_of_it`: waits for what is still computed."""
        while self._laps and (all_of_it or self._laps[0][1].query()):
            begin, end, waited_s = self._laps.popleft()
            end.synchronize()
            self._total_s += max(0.0, begin.elapsed_time(end) / 1e3 - waited_s)
        return self._total_s

    def _mark(self) -> torch.Event:
        event = torch.Event(self._device, enable_timing=True)
        event.record()
        return event


def identity(device: torch.device) -> str:
    """What tells a GPU from all others, on any machine; of another device its kind."""
    if device.type != "cuda":
        return device.type
    properties = cast("Any", torch.cuda.get_device_properties(device))  # pyright: ignore[reportUnknownMemberType]
    return f"cuda {properties.uuid}"


def backend_of(identities: Sequence[str], shared: str) -> str:
    """Of a process group whose members compute on these devices: Gloo among CPUs; NCCL where each has a GPU of its own, beside
    Gloo for what is in the host's memory; else `shared`."""
    if all(each == "cpu" for each in identities):
        return "gloo"
    alone = all(each.startswith("cuda ") for each in identities) and len(set(identities)) == len(identities)
    return "cpu:gloo,cuda:nccl" if alone else shared


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that this process has held: of its GPU, or of the host. 0 where the system does not count it."""
    if device.type in ("cuda", "xpu"):
        return torch.get_device_module(device).max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
