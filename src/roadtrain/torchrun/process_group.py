"""The script's own process group: that it makes one says that it was written for torchrun."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed
from torch.distributed import distributed_c10d

from roadtrain.errors import UsageError

NAMED_IN = ("torch.distributed", "torch.distributed.distributed_c10d", "torch.distributed.device_mesh")
"""Modules that have the functions under their names."""


def watch(made: Callable[[], None], warn: Callable[[str], None], ends: Callable[[], None]) -> None:
    """Call `made` when the script asks for a process group, before it has one, and `ends` when it wants none any more. Without
    CUDA one of NCCL becomes one of Gloo, and `warn` is told. Raises UsageError where there is no place to meet."""
    original, last = distributed_c10d.init_process_group, distributed_c10d.destroy_process_group

    @functools.wraps(original)
    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> None:
        made()
        by_environment = not args and "store" not in kwargs and kwargs.get("init_method") in (None, "env://")
        if by_environment and "MASTER_ADDR" not in os.environ:
            raise UsageError(
                "the script wants a process group, and workers of this run are on several machines: "
                "its connections would be neither encrypted nor know who comes",
                "call rt.attach in it, which needs none; or run it on one machine, or under a launcher",
            )
        if backend is not None and "nccl" in backend.lower() and not torch.cuda.is_available():
            warn("there is no CUDA here: the script's process group is of gloo, and not of nccl")
            backend = "gloo"
        original(backend, *args, **kwargs)

    @functools.wraps(last)
    def destroy_process_group(group: Any = None) -> None:
        if group is None or group is distributed_c10d.GroupMember.WORLD:
            ends()
        last(group)

    for module in filter(None, map(sys.modules.get, NAMED_IN)):
        for patched in (init_process_group, destroy_process_group):
            if hasattr(module, patched.__name__):
                vars(module)[patched.__name__] = patched
