"""Number by number, what several contributions have in common, whatever one of them says.

Coordinate-wise median and trimmed mean, Yin et al. 2018, arXiv 1803.01498. Weights do not count: who is wrong could claim any.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CHUNK = 1 << 18
"""Numbers that are sorted at once: what is held besides is so many of each contribution."""


def central(contributions: Sequence[Tensor], how: str) -> Tensor:
    """`median`, or `trimmed`: the mean without a quarter, and one at least, at each end. Of three or more finite
    contributions [numel] of one dtype; [numel] of that."""
    count = len(contributions)
    cut = (count - 1) // 2 if how == "median" else max(1, count // 4)
    found = torch.empty_like(contributions[0])
    for begin in range(0, found.numel(), CHUNK):
        here = torch.stack([each[begin : begin + CHUNK] for each in contributions]).sort(dim=0).values
        found[begin : begin + CHUNK] = here[cut : count - cut].mean(dim=0)
    return found
