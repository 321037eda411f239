"""A model looked at in this process: figures of held-out batches, and predictions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from roadtrain.errors import UsageError
from roadtrain.notebook.loader_batches import samples_of
from roadtrain.trainer.task import to_device
from roadtrain.trainer.trainer import Loss


@contextmanager
def _looked_at(model: nn.Module) -> Iterator[torch.device]:
    """Without gradients, as the model is in use; its modules' modes are afterwards what they were."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    finally:
        for module, training in modes:
            module.training = training


def mean_figures(model: nn.Module, loss: Loss, batches: Iterable[Any]) -> dict[str, float]:
    """Means over all samples. Raises UsageError where there is none."""
    sums, samples = dict[str, float](), 0
    with _looked_at(model) as device:
        for batch in batches:
            found = loss(model, to_device(batch, device))
            value, more = found if isinstance(found, tuple) else (found, {})
            size = samples_of(batch)
            samples += size
            for name, figure in {"loss": value, **more}.items():
                sums[name] = sums.get(name, 0.0) + size * float(figure)
    if not samples:
        raise UsageError("there is nothing to validate on: the loader has no batch")
    return {name: total / samples for name, total in sums.items()}


def predictions(model: nn.Module, batches: Iterable[Any]) -> Iterator[Tensor | Any]:
    """Of each batch, in order. Its first part is what goes in, where it is a pair."""
    for batch in batches:
        with _looked_at(model) as device:
            inputs = cast("list[Any]", batch)[0] if isinstance(batch, list | tuple) else batch
            output = model(to_device(inputs, device))
        yield output
