"""What is trained, as the trainer sees it: a model, its samples and its loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from roadtrain.errors import UsageError
from roadtrain.plan import Plan, declaration_of

Batch: TypeAlias = Any
"""Tensors, nested in tuples, lists and dicts as the person likes."""


class Task(Protocol):
    """A model and its data. Recipes make tasks, and so do the jobs of anybody. One whose batches feeders alone have says as what
    they know them: `fed_as`."""

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

    def validate(self, model: nn.Module) -> float | Mapping[str, float]:
        """Mean loss on held-out samples; or figures by name, `loss` among them."""
        ...

    def sample(self, model: nn.Module) -> str | None:
        """Something generated to look at, if the model generates; where a task has a `prompt`, it begins with that."""
        ...


def held_out(task: Task, model: nn.Module) -> dict[str, float]:
    """What `validate` finds, as `val_loss` and others by name."""
    found = task.validate(model)
    figures = (
        {name: float(value) for name, value in found.items()} if isinstance(found, Mapping) else {"loss": float(found)}
    )
    return {f"val_{name}": value for name, value in figures.items()}


def written(task: Task, model: nn.Module) -> dict[str, str | None]:
    """What the model writes, and after what."""
    return {"sample": task.sample(model), "prompt": getattr(task, "prompt", None)}


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
