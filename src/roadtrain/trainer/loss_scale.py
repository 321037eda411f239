"""Dynamic loss scaling, for gradients in half precision (Micikevicius et al. 2018, arXiv 1710.03740).

`torch.amp.GradScaler` looks for overflow in the gradients of one process; here the global norm, which all ranks of a replica
know, says whether there was one.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST = 2.0**14
GROW_EVERY = 1000
"""Steps without an overflow after which the scale is doubled."""


@dataclass(slots=True)
class LossScale:
    """`value`: what the loss is multiplied with. It halves at an overflow."""

    value: float
    moves: bool
    since: int = 0

    @classmethod
    def none(cls) -> LossScale:
        """For precisions that need no scale."""
        return cls(1.0, moves=False)

    @classmethod
    def dynamic(cls) -> LossScale:
        """For fp16."""
        return cls(FIRST, moves=True)

    def update(self, finite: bool) -> None:
        """A step is over, whose gradients were `finite` or not."""
        if not self.moves:
            return
        self.since = self.since + 1 if finite else 0
        if not finite:
            self.value = max(1.0, self.value / 2)
        elif self.since % GROW_EVERY == 0:
            self.value *= 2
