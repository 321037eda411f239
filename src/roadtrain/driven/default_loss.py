"""The loss where none is given."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional

from roadtrain.errors import UsageError


def default_loss(model: nn.Module, batch: Any) -> Tensor:
    """Of a batch (inputs, targets): cross entropy for targets of whole numbers, mean squared error for others.

    Logits [N, C] or [N, C, ...] as torch has them, or [..., C] with one target for each row. Raises UsageError for other batches.
    """
    if not isinstance(batch, list | tuple) or len(cast("list[Any]", batch)) != 2:
        raise UsageError("a batch is no pair of inputs and targets", "give register_model loss=, a loss(model, batch)")
    inputs, targets = cast("list[Any]", batch)
    outputs = model(inputs)
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
        raise UsageError("the model's output is no tensor", "give register_model loss=, a loss(model, batch)")
    if not targets.is_floating_point():
        if outputs.shape[:-1] == targets.shape:
            return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten().long())
        return functional.cross_entropy(outputs, targets.long())
    if outputs.shape != targets.shape and outputs.numel() == targets.numel():
        outputs = outputs.reshape(targets.shape)
    return functional.mse_loss(outputs, targets)
