"""What is trained, as the trainer sees it: a model, its samples and its loss."""

from __future__ import annotations

import importlib
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from roadtrain.plan import Plan

Batch: TypeAlias = Any
"""Tensors, nested in tuples, lists and dicts as the person likes."""


class Task(Protocol):
    """A model and its data. Recipes make tasks; so can anybody."""

    tokens_per_sample: int

    def build(self) -> nn.Module:
        """The model, on the CPU; the caller has seeded torch."""
        ...

    def __len__(self) -> int:
        """Number of training samples."""
        ...

    def batch(self, indices: Tensor) -> Batch:
        """The samples of int64 `indices` [n], on the CPU."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean loss of a batch (a scalar that can be differentiated)."""
        ...

    def validate(self, model: nn.Module) -> float:
        """Mean loss on held-out samples."""
        ...

    def sample(self, model: nn.Module) -> str | None:
        """Something generated to look at, if the model generates."""
        ...


def make_task(module: str, plan: Plan) -> Task:
    """The task of a recipe, by the recipe's module."""
    return importlib.import_module(module).make(plan)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Every tensor of a batch, which may be nested, on `device`."""
    return tree_map_only(Tensor, lambda tensor: tensor.to(device, non_blocking=True), batch)
