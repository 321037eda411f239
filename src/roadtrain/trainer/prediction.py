"""A model's outputs, computed as they are asked for: nothing of it is trained, and it is left as it was."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from roadtrain.trainer.task import to_device


def predictions(
    model: Callable[[], nn.Module],
    data: Dataset[Any],
    batch: int,
    collate: Callable[[Any], Any],
    context: Callable[[], AbstractContextManager[Any]],
    device: torch.device,
) -> Iterator[Any]:
    """The outputs of batches, in the order of `data`. `model` is asked for the one of the moment before each; `context` is
    entered around what it computes. One batch is held at a time."""
    loader = DataLoader(data, batch_size=batch, collate_fn=collate, generator=torch.Generator())
    for inputs in cast("Iterator[Any]", iter(loader)):
        now = model()
        with looking(now), context():
            outputs = now(to_device(inputs, device))
        yield outputs


@contextmanager
def looking(model: nn.Module) -> Generator[None]:
    """Around what a model computes without being trained: every part of it is in evaluation mode, and afterwards in the one
    that it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
