"""What a person says of their training with transformers, and what this machine makes of it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from typing import Literal

import torch

from roadtrain.errors import UsageError
from roadtrain.loop.attach import attached_here
from roadtrain.session.worker_context import this_worker

Backend = Literal["nccl", "gloo"]


@dataclass(frozen=True, slots=True)
class MultiGPUConfig:
    """How a `Trainer` is to train on several devices of this machine.

    num_gpus: processes, one a device; None: one for each CUDA device. batch_size_per_gpu: rows of a micro-batch of one process,
    in place of `per_device_train_batch_size`. ddp_backend: "nccl", or "gloo" on CPUs, which is taken where there is no CUDA.
    memory_optimization: where memory runs out micro-batches are halved, and CUDA's allocator joins free blocks
    (`expandable_segments`). enable_gradient_checkpointing: for models that can, without reentrance. find_unused_parameters: as
    DistributedDataParallel takes it. sync, codec: another way to agree than all-reduce, as `roadtrain run --sync --codec` has
    them. debug: torch.distributed checks collectives, names parameters.

    Raises UsageError for what cannot be.
    """

    num_gpus: int | None = 2
    batch_size_per_gpu: int = 2
    ddp_backend: Backend = "nccl"
    memory_optimization: bool = True
    enable_gradient_checkpointing: bool = True
    find_unused_parameters: bool = False
    sync: str | None = None
    codec: str | None = None
    debug: bool = False

    def __post_init__(self) -> None:
        for name in ("num_gpus", "batch_size_per_gpu"):
            value = getattr(self, name)
            counts = isinstance(value, int) and not isinstance(value, bool) and value > 0
            if not counts and not (value is None and name == "num_gpus"):
                raise UsageError(f"{name} is {value!r}", "give a number from 1 on")
        if self.ddp_backend not in ("nccl", "gloo"):
            raise UsageError(f"ddp_backend is {self.ddp_backend!r}", "give nccl, or gloo on CPUs")

    def here(self) -> MultiGPUConfig:
        """With what this machine has. Raises UsageError where it has fewer CUDA devices than are asked for."""
        devices = torch.cuda.device_count()
        if not devices:
            return replace(self, num_gpus=self.num_gpus or 1, ddp_backend="gloo")
        if self.num_gpus is not None and self.num_gpus > devices:
            raise UsageError(f"num_gpus is {self.num_gpus}, and there are {devices} CUDA devices here", "ask for fewer")
        return replace(self, num_gpus=self.num_gpus or devices)

    @property
    def processes(self) -> int:
        """How many processes, once `here` has said so."""
        return self.num_gpus or 1

    @property
    def words(self) -> list[str]:
        """What `roadtrain run` is to be told."""
        sync = ["--sync", self.sync] if self.sync else []
        return ["--workers", str(self.processes), *sync, *(["--codec", self.codec] if self.codec else [])]

    @property
    def environment(self) -> dict[str, str]:
        """What a process that trains is to find in its environment. What a person has set stays."""
        wanted: dict[str, str] = {}
        if not torch.cuda.is_available():
            wanted["ACCELERATE_USE_CPU"] = "true"  # else every rank trains all by itself, and none says so
        elif self.memory_optimization:
            wanted["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
        if self.debug:
            wanted["TORCH_DISTRIBUTED_DEBUG"] = "DETAIL"
        return {name: text for name, text in wanted.items() if name not in os.environ}


def rank_here() -> int | None:
    """This process's rank where a launcher has started it, else None."""
    worker = this_worker()
    if {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return int(os.environ["RANK"])
    return None if worker is None else worker.worker.slot


def world_here() -> int:
    """How many processes train, of which this is one."""
    worker = this_worker()
    return int(os.environ.get("WORLD_SIZE", "1" if worker is None else str(worker.worker.slots)))


def is_first() -> bool:
    """Whether this process writes for all: the first, or in a fleet the first that lives."""
    attached = attached_here()
    return not rank_here() if attached is None else attached.writes


def say(line: str) -> None:
    """One line for the person, of the first process alone."""
    if not rank_here():
        print(f"roadtrain: {line}", file=sys.stderr, flush=True)


def say_device(config: MultiGPUConfig) -> None:
    """That there is no CUDA, where there is none."""
    if not torch.cuda.is_available():
        say(f"there is no CUDA here: {config.processes} processes train on the CPU, and meet by gloo")
