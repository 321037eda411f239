"""Micro-batches in smaller pieces whose losses and gradients add up to those of the whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from math import isclose
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

NEAR, HALF_NEAR = 1e-4, 2e-2
"""Two losses are the same: in fp32, and where numbers have 16 bits."""
LOSSES = ("transformers.trainer", "trl.trainer.sft_trainer")
"""Modules whose `compute_loss` goes by what the model, or `compute_loss_func`, returns."""


def why_unknown(trainer: Any, inputs: Any) -> str:
    """Why a trainer's micro-batches are never split; "" where they may be."""
    made = type(trainer).compute_loss.__module__
    if made not in LOSSES:
        return f"{made} has a compute_loss of its own, which may not be a sum over rows"
    if not isinstance(inputs, Mapping) or not rows_of(inputs):
        return "the trainer's batches are no dictionaries of tensors"
    return ""


def why_whole(trainer: Any, model: nn.Module, inputs: Mapping[str, Any]) -> str:
    """Why `inputs` cannot be split and give the same, as far as it can be seen before it is measured; "" where they may be."""
    rows = rows_of(inputs)
    if rows == 1:
        return "it has one row"
    odd = [name for name, value in inputs.items() if _has_other_rows(value, rows)]
    if odd:
        return f"{odd[0]} has other rows than {next(iter(inputs))}, or is no tensor"
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):  # pyright: ignore[reportPrivateUsage]
        return "the model has BatchNorm, which looks at all rows at once"
    if inputs.get("output_router_logits") or _balances(getattr(model, "config", None)):
        return "the model balances its experts over all rows at once"
    if trainer.label_smoother is not None:
        return "smoothed labels are averaged over the tokens of all rows"
    return ""


def _has_other_rows(value: Any, rows: int) -> bool:
    if isinstance(value, Tensor):
        return value.ndim > 0 and len(value) != rows
    return not (value is None or isinstance(value, bool | int | float))


def _balances(config: Any) -> bool:
    """Also the part of a model for text and pictures that is for text."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else None
    return any(getattr(each, "output_router_logits", False) for each in (config, text))


class Rule(Enum):
    """How the losses of rows become that of several."""

    SUM = "sum"
    MEAN = "mean"


def measured(trainer: Any, model: nn.Module, inputs: Mapping[str, Any], items: Any, rows: int) -> Rule | None:
    """Which it is of these rows, seen in pieces of `rows` and one by one, as in evaluation and without gradients; None for
    neither. What trainers and models say of it themselves is not true of all of them."""
    prepared, width = trainer._prepare_inputs(inputs), max(2, rows)

    def losses(size: int) -> list[float]:
        given = [piece for piece, _ in pieces(prepared, size)]
        found: list[Any] = [Trainer.compute_loss(trainer, model, each, num_items_in_batch=items) for each in given]
        return [float(loss) for loss in found]

    with _as_in_evaluation(model), torch.no_grad(), trainer.compute_loss_context_manager():
        alone, together = losses(1), losses(width)
    groups = [alone[begin : begin + width] for begin in range(0, len(alone), width)]
    near = HALF_NEAR if _is_half(trainer, model) else NEAR
    for rule, wanted in ((Rule.SUM, map(sum, groups)), (Rule.MEAN, map(fmean, groups))):
        if all(isclose(one, other, rel_tol=near) for one, other in zip(together, wanted, strict=True)):
            return rule
    return None


@contextmanager
def _as_in_evaluation(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _is_half(trainer: Any, model: nn.Module) -> bool:
    dtypes = {parameter.dtype for parameter in model.parameters()}
    return trainer.args.bf16 or trainer.args.fp16 or bool(dtypes & {torch.bfloat16, torch.float16})


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
