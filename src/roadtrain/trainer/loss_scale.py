"""Dynamic loss scaling, for gradients in half precision (Micikevicius et al. 2018, arXiv 1710.03740).

`torch.amp.GradScaler` looks for overflow in the gradients of one process; here the global norm, which all ranks of a replica
know, says whether there was one (`LossScale`), and in a loop on a session each worker has a scale of its own (`FullGradients`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from roadtrain.errors import UsageError

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

    def state(self) -> Tensor:
        """Float64 [2], for `load`."""
        return torch.tensor([self.value, self.since], dtype=torch.float64)

    def load(self, state: Tensor) -> None:
        """Go on from what `state` gave."""
        self.value, self.since = float(state[0]), int(state[1])

    def update(self, finite: bool) -> None:
        """A step is over, whose gradients were `finite` or not."""
        if not self.moves:
            return
        self.since = self.since + 1 if finite else 0
        if not finite:
            self.value = max(1.0, self.value / 2)
        elif self.since % GROW_EVERY == 0:
            self.value *= 2


class FullGradients:
    """The loss of a loop, scaled; and its gradients, which are divided again as each is made: so no other worker, no clipping and
    no accumulation sees the scale, and workers need not agree on one. What overflowed at one worker is refused by the owners.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        """Raises UsageError for parameters in half precision, whose gradients are lost when they are divided."""
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        if any(parameter.dtype is torch.float16 for parameter in trained):
            raise UsageError(
                "precision fp16 computes in it with parameters in fp32, and the model's are fp16",
                "make the model of float(), or leave precision= out",
            )
        self._scale = LossScale.dynamic()
        self._sums: list[Tensor] = []
        for parameter in trained:
            parameter.register_hook(self._unscale)

    def scaled(self, loss: Tensor) -> Tensor:
        """What `backward` is called on."""
        return loss * self._scale.value

    def _unscale(self, gradient: Tensor) -> Tensor:
        self._sums.append(gradient.sum())
        return gradient / self._scale.value  # a power of two: exact

    def step_over(self) -> bool:
        """All gradients of a step are made: whether they were finite, by which the scale moves."""
        finite = all(bool(torch.isfinite(found)) for found in self._sums)
        self._sums.clear()
        self._scale.update(finite)
        return finite
