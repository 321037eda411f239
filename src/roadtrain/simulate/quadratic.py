"""A problem whose gradients are known by hand, for tests of the protocol."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from roadtrain.sync.fragment import Fragment, Piece


class Quadratic:
    """Each slot pulls towards a target of its own: gradient = pull * values - target(slot, step), in float64.

    With `pull` 0 the gradient does not depend on the values, so a sum of contributions can be checked whatever their order.
    """

    def __init__(self, sizes: Sequence[int] = (5, 3, 4), pull: float = 1.0, seed: int = 0) -> None:
        self.fragments = [Fragment((Piece(f"t{i}", 0, n),), torch.float64) for i, n in enumerate(sizes)]
        self._pull = pull
        self._seed = seed

    def initial(self, fragment: int) -> Tensor:
        return torch.linspace(-1, 1, self.fragments[fragment].numel, dtype=torch.float64) + fragment

    def gradients(self, slot: int, batch: int, values: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
        made = [self.gradient(slot, batch, fragment, value) for fragment, value in enumerate(values)]
        return float(sum(gradient.square().sum() for gradient in made)), made

    def gradient(self, slot: int, batch: int, fragment: int, values: Tensor) -> Tensor:
        """The gradient of one fragment."""
        index = torch.arange(1, values.numel() + 1, dtype=torch.float64)
        target = torch.sin(index * (1 + slot) * 1.7 + batch * 0.9 + fragment + self._seed)
        return values * self._pull - target

    def samples(self, slot: int, batch: int) -> int:
        return 1 + (7 * slot + 3 * batch + self._seed) % 5
