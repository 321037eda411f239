"""A batch as a layout hands it on: tensors alone, whatever they are nested in."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from roadtrain.errors import UsageError
from roadtrain.trainer.task import Batch


class FlatBatch:
    """The form of `sample`, which all batches have. `sample` from then on: its tensors, on `device`."""

    def __init__(self, sample: Batch, device: torch.device) -> None:
        self._device = device
        self.sample, self._form = self._taken_apart(sample)

    def flat(self, batch: Batch) -> tuple[Tensor, ...]:
        """The tensors of a batch, on the device. Raises UsageError where it holds anything else."""
        return self._taken_apart(batch)[0]

    def nested(self, tensors: tuple[Tensor, ...]) -> Batch:
        """The batch again."""
        return tree_unflatten(list(tensors), self._form)

    def _taken_apart(self, batch: Batch) -> tuple[tuple[Tensor, ...], TreeSpec]:
        leaves, form = tree_flatten(batch)
        if not all(isinstance(leaf, Tensor) for leaf in leaves):
            raise UsageError(
                "a layout takes batches of tensors alone", "leave out what is none, or train without --layout"
            )
        return tuple(leaf.to(self._device) for leaf in leaves), form
