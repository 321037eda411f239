"""What is trained, as the trainer sees it: a model, its samples and its loss."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from roadtrain.errors import UsageError
from roadtrain.plan import Plan, declaration_of

Batch: TypeAlias = Any
"""Tensors, nested in tuples, lists and dicts as the person likes."""


class Task(Protocol):
    """A model and its data. Recipes make tasks, and so do the jobs of anybody."""

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


PARTS = ("tokens_per_sample", "build", "__len__", "batch", "loss", "validate", "sample")
"""What a task has."""


def make_task(plan: Plan) -> Task:
    """The task of the plan's recipe or job. Raises UsageError where there is none, and whatever its own code raises."""
    declared = declaration_of(plan.job.target)
    if declared.make is None:
        raise UsageError(f"{plan.job.target or 'the plan'} makes no task", "name a recipe, or a job: FILE.py:FUNCTION")
    task = declared.make(plan, **declared.arguments(plan))
    missing = [part for part in PARTS if not hasattr(task, part)]
    if missing:
        raise UsageError(
            f"{plan.job.target} made a {type(task).__name__}, which is no task", f"it has no {', '.join(missing)}"
        )
    return cast(Task, task)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Every tensor of a batch, which may be nested, on `device`."""
    return tree_map_only(Tensor, lambda tensor: tensor.to(device, non_blocking=True), batch)
