"""A model's outputs, computed as they are asked for: nothing of it is trained, and it is left as it was."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset

from roadtrain.data.remote_data import RemoteData
from roadtrain.data.supply import OwnSupply
from roadtrain.loop.loader import samples_of
from roadtrain.trainer.task import to_device

TRIM_BYTES = 1 << 26
"""After so many bytes of inputs free memory is given back."""


def predictions(
    model: Callable[[], nn.Module],
    data: Dataset[Any] | Tensor | RemoteData,
    batch: int,
    collate: Callable[[Any], Any],
    context: Callable[[], AbstractContextManager[Any]],
    device: torch.device,
) -> Iterator[Any]:
    """The outputs of batches, in the order of `data`. `model` is asked for the one of the moment before each; `context` is
    entered around what it computes. One batch is held at a time."""
    passed = 0
    for inputs in _inputs(data, batch, collate):
        now = model()
        with looking(now), context():
            outputs = now(to_device(inputs, device))
        passed += sum(leaf.nbytes for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor))
        del inputs
        if passed >= TRIM_BYTES:
            passed = 0
            give_back()
        yield outputs


def _inputs(data: Dataset[Any] | Tensor | RemoteData, batch: int, collate: Callable[[Any], Any]) -> Iterator[Any]:
    """Batches, in order. What cannot be made ends it: nobody would know which output is of which input."""
    samples = samples_of(cast("Dataset[Any] | RemoteData", data), "inputs", collate, OwnSupply.strict())
    return (made.batch for made in samples.in_order(batch))


def give_back() -> None:
    """Free memory goes back to the system. Small outputs that are kept lie between large inputs that were freed: where the next
    ones do not fit between them, glibc's heap would grow with every batch."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], object] | None:
    """glibc's own; None elsewhere."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


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
