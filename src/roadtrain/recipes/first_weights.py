"""Random first weights that are the same on every kind of processor, so that nobody has to be sent them.

torch's own normal and uniform draws use other instructions on other processors, and differ in the last bit. These are made of
torch.rand, which is exact, and of operations that are rounded once each.
"""

from __future__ import annotations

import torch
from torch import Tensor

ADDED = 12
"""So many uniform numbers add up to nearly a normal one (Irwin-Hall), of variance 1."""


@torch.no_grad()
def normal_(parameter: Tensor, std: float) -> None:
    """Fill with numbers of mean 0 and deviation `std`, of torch's own random state."""
    total = torch.rand(parameter.shape)
    for _ in range(ADDED - 1):
        total += torch.rand(parameter.shape)
    parameter.copy_(total.sub_(ADDED / 2).mul_(std))


@torch.no_grad()
def uniform_(parameter: Tensor, bound: float) -> None:
    """Fill with numbers from -`bound` to `bound`, of torch's own random state."""
    parameter.copy_(torch.rand(parameter.shape).mul_(2).sub_(1).mul_(bound))
