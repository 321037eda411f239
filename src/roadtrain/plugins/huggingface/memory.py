"""Memory of this process: what it holds, and how what nobody needs is let go."""

from __future__ import annotations

import os

import torch

from roadtrain.session.device import peak_memory_bytes


def report() -> dict[str, object]:
    """device: of which the figures are; allocated_bytes: what tensors hold there now, or on the CPU the whole process;
    peak_bytes: the most that it was (0 where the system does not count it); total_bytes: what the device has."""
    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
        allocated, total = torch.cuda.memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
    else:
        device = torch.device("cpu")
        import psutil  # accelerate has it

        allocated, total = psutil.Process(os.getpid()).memory_info().rss, psutil.virtual_memory().total
    peak = peak_memory_bytes(device)
    return {"device": str(device), "allocated_bytes": allocated, "peak_bytes": peak, "total_bytes": total}


def release() -> None:
    """Let go of what nothing refers to any more, and of the allocator's free blocks."""
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)
