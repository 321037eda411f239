"""What several contributions have in common, whatever one of them says.

Weights do not count: who is wrong could claim any.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CHUNK = 1 << 18
"""Numbers that are looked at at once: what is held besides is so many of each contribution."""
CLIPPINGS = 3


def central(contributions: Sequence[Tensor], how: str) -> Tensor:
    """Of three or more finite contributions [numel] of one dtype; [numel] of that.

    `median`, number by number; `trimmed`: the mean without a quarter, and one at least, at each end (Yin et al. 2018, arXiv
    1803.01498); `clip`: the mean, those that are further from the middle than most drawn in (Karimireddy et al. 2021, arXiv
    2012.10333).
    """
    count = len(contributions)
    if how == "trimmed":
        return _middle(contributions, max(1, count // 4))
    middle = _middle(contributions, (count - 1) // 2)
    return middle if how == "median" else _clipped(contributions, middle)


def _middle(contributions: Sequence[Tensor], cut: int) -> Tensor:
    """The mean, number by number, without so many at each end."""
    found = torch.empty_like(contributions[0])
    for begin in range(0, found.numel(), CHUNK):
        here = torch.stack([each[begin : begin + CHUNK] for each in contributions]).sort(dim=0).values
        found[begin : begin + CHUNK] = here[cut : len(contributions) - cut].mean(dim=0)
    return found


def _clipped(contributions: Sequence[Tensor], middle: Tensor) -> Tensor:
    """Centred clipping, from the median on, with the median distance as its radius: nobody has to name one."""
    for _ in range(CLIPPINGS):
        distances = [float((each - middle).double().square().sum().sqrt()) for each in contributions]
        radius = sorted(distances)[(len(distances) - 1) // 2]
        shares = [_share(radius, distance) / len(contributions) for distance in distances]
        moved = middle.clone()
        for each, share in zip(contributions, shares, strict=True):
            moved.add_(each - middle, alpha=share)
        middle = moved
    return middle


def _share(radius: float, distance: float) -> float:
    """Of a contribution's way from the middle. In 8 bits, as an owner and its standby are to come to the same one, and their
    processors may add up a norm in another order."""
    return float(torch.tensor(min(1.0, radius / distance) if distance else 1.0).bfloat16())
