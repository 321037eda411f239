"""Arithmetic that repeats: machines of different kinds come to the same bits.

Owner, standby and replicas compute the same values, each on its own CPU. Additions, products, quotients and roots of single
values are rounded the same way on all of them. What is not: `alpha=`, `lerp_`, `addcmul_` and `addcdiv_`, which some CPUs fuse
and so round once less, and `sum`, `mean`, `dot` and products by BLAS, whose order of adding follows the width of a CPU's
vectors. What must repeat does without them; the two functions here stand in.
"""

from __future__ import annotations

import torch
from torch import Tensor

TILE = 1 << 18
"""Values that scratch holds: they stay in the cache."""


def add_scaled(out: Tensor, values: Tensor, share: float) -> None:
    """Add `share` times `values` [n] to `out` [n]: the products are rounded, then the sums. Values may be of another dtype."""
    if share == 1.0:
        out.add_(values)
        return
    scratch = torch.empty(min(TILE, out.numel()), dtype=out.dtype)
    for start in range(0, out.numel(), TILE):
        tile = out[start : start + TILE]
        part = values[start : start + TILE].to(out.dtype)
        tile.add_(torch.mul(part, share, out=scratch[: part.numel()]))


def folded(terms: Tensor) -> Tensor:
    """The sum [...] of terms [m, ...] over the first dimension, m > 0: halves are added until one is left. Spoils `terms`."""
    while (count := len(terms)) > 1:
        half = count // 2
        terms[:half].add_(terms[count - half :])
        terms = terms[: count - half]
    return terms[0]
