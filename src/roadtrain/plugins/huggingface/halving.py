"""Micro-batches in smaller pieces whose losses and gradients add up to those of the whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

LOSSES = ("transformers.trainer", "trl.trainer.sft_trainer")
"""Modules whose `compute_loss` is known to be a sum over rows."""


def why_unknown(trainer: Any, inputs: Any) -> str:
    """Why a trainer's micro-batches are never split; "" where they may be."""
    made = type(trainer).compute_loss.__module__
    if made not in LOSSES:
        return f"{made} has a compute_loss of its own, which may not be a sum over rows"
    if not isinstance(inputs, Mapping) or not rows_of(inputs):
        return "the trainer's batches are no dictionaries of tensors"
    return ""


def why_whole(trainer: Any, model: nn.Module, inputs: Mapping[str, Any], items: Any) -> str:
    """Why `inputs` cannot be split and give the same; "" where they can. `items`: `num_items_in_batch`, by which the loss is
    divided where it is given and the model takes it."""
    rows = rows_of(inputs)
    if rows == 1:
        return "it has one row"
    odd = [name for name, value in inputs.items() if isinstance(value, Tensor) and value.ndim and len(value) != rows]
    if odd:
        return f"{odd[0]} has other rows than {next(iter(inputs))}"
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):  # pyright: ignore[reportPrivateUsage]
        return "the model has BatchNorm, which looks at all rows at once"
    if getattr(getattr(model, "config", None), "output_router_logits", False):
        return "the model balances its experts over all rows at once"
    if trainer.label_smoother is not None:
        return "smoothed labels are averaged over the tokens of all rows"
    if not summed(trainer, items) and _uneven(inputs.get("labels")):
        return "its loss is a mean over tokens, of which rows have unlike numbers"
    return ""


def _uneven(labels: Any) -> bool:
    """Whether rows have unlike numbers of labels that count, be they shifted or not."""
    if not isinstance(labels, Tensor) or labels.ndim < 2 or labels.is_floating_point():
        return False
    counted = (labels != -100, labels[:, 1:] != -100)
    return any(len(each.flatten(1).sum(1).unique()) > 1 for each in counted)


def summed(trainer: Any, items: Any) -> bool:
    """Whether losses are sums, divided by `items`, and not means over rows."""
    return items is not None and (trainer.model_accepts_loss_kwargs or trainer.compute_loss_func is not None)


def pieces(inputs: Mapping[str, Any], rows: int) -> list[tuple[dict[str, Any], float]]:
    """`inputs` in pieces of up to so many rows, each with its part of them."""
    whole = rows_of(inputs)
    if rows >= whole:
        return [(dict(inputs), 1.0)]
    cuts = [slice(begin, min(begin + rows, whole)) for begin in range(0, whole, rows)]
    return [
        (
            {name: value[cut] if isinstance(value, Tensor) and value.ndim else value for name, value in inputs.items()},
            (cut.stop - cut.start) / whole,
        )
        for cut in cuts
    ]


def rows_of(inputs: Mapping[str, Any]) -> int:
    """Of the first tensor; 0 where there is none."""
    return next((len(value) for value in inputs.values() if isinstance(value, torch.Tensor) and value.ndim), 0)
