"""How many threads torch's kernels use on a CPU, for one calling thread at a time.

`torch.set_num_threads` is for the whole process, and it ends MKL's own choice (`MKL_DYNAMIC`) of fewer threads where a product is
small, which costs a small model 4% of its speed. OpenMP's own call is for the thread that makes it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch


def use_threads(count: int) -> None:
    """Have torch's kernels that this thread calls use so many threads; where torch has no OpenMP, those of all threads."""
    if (
        torch.get_num_threads() == count
    ):  # asking also has this thread take the common number, which it would do later otherwise
        return
    _set_for_this_thread()(count)


@cache
def _set_for_this_thread() -> Callable[[int], object]:
    for library in sorted((Path(torch.__file__).parent / "lib").glob("*torch_cpu.*")):
        try:
            return ctypes.CDLL(str(library)).omp_set_num_threads  # already loaded: this finds it, and what it stands on
        except (OSError, AttributeError):
            continue
    return torch.set_num_threads
