"""The script's own process group: that it makes one says that it was written for torchrun."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed
from torch.distributed import distributed_c10d

NAMED_IN = ("torch.distributed", "torch.distributed.distributed_c10d", "torch.distributed.device_mesh")
"""Modules that have the function under its name."""


def watch(made: Callable[[], None], warn: Callable[[str], None]) -> None:
    """Call `made` when the script asks for a process group, before it has one. Without CUDA one of NCCL becomes one of Gloo, and
    `warn` is told."""
    original = distributed_c10d.init_process_group

    @functools.wraps(original)
    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> None:
        made()
        if backend is not None and "nccl" in backend.lower() and not torch.cuda.is_available():
            warn("there is no CUDA here: the script's process group is of gloo, and not of nccl")
            backend = "gloo"
        original(backend, *args, **kwargs)

    for name in NAMED_IN:
        module = sys.modules.get(name)
        if module is not None and getattr(module, "init_process_group", None) is original:
            vars(module)["init_process_group"] = init_process_group
