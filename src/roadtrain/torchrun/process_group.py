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
"""Modules that have the functions under their names."""


def watch(made: Callable[[], None], warn: Callable[[str], None], ends: Callable[[], None]) -> None:
    """Call `made` when the script asks for a process group, before it has one, and `ends` when it wants none any more. Without
    CUDA one of NCCL becomes one of Gloo, and `warn` is told."""
    original, last = distributed_c10d.init_process_group, distributed_c10d.destroy_process_group

    @functools.wraps(original)
    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> None:
        made()
        if backend is not None and "nccl" in backend.lower() and not torch.cuda.is_available():
            warn("there is no CUDA here: the script's process group is of gloo, and not of nccl")
            backend = "gloo"
        original(backend, *args, **kwargs)

    @functools.wraps(last)
    def destroy_process_group(group: Any = None) -> None:
        if group is None:
            ends()
        last(group)

    for module in filter(None, map(sys.modules.get, NAMED_IN)):
        for patched in (init_process_group, destroy_process_group):
            if hasattr(module, patched.__name__):
                vars(module)[patched.__name__] = patched
