"""What is trained, as the trainer sees it: a model, its samples and its loss."""

from __future__ import annotations

from typing import Protocol, TypeAlias, cast

import torch
from torch import Tensor, nn

from roadtrain.errors import UsageError
from roadtrain.plan import Plan, declaration_of

Batch: TypeAlias = tuple[Tensor, ...]


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


class Sampler:
    """Which samples a step takes: a pure function of (seed, step, slot).

    Step s (from 0) takes the next `slots * batch` samples of the epoch's permutation, slot r its r-th slice, so one process
    with the whole batch sees the same ones.
    """

    def __init__(self, size: int, batch: int, slots: int, seed: int) -> None:
        self._size, self._batch, self._slots, self._seed = size, batch, slots, seed
        self._epochs: dict[int, Tensor] = {}

    def indices(self, step: int, slot: int) -> Tensor:
        """int64 [batch]: the samples of `slot` in `step`."""
        begin = (step * self._slots + slot) * self._batch
        taken: list[Tensor] = []
        while len(taken) == 0 or sum(map(len, taken)) < self._batch:
            at = begin + sum(map(len, taken))
            epoch, offset = divmod(at, self._size)
            missing = self._batch - sum(map(len, taken))
            taken.append(self._permutation(epoch)[offset : offset + missing])
        return torch.cat(taken)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            self._epochs = {e: p for e, p in self._epochs.items() if e >= epoch - 1}
            self._epochs[epoch] = torch.randperm(self._size, generator=generator)
        return self._epochs[epoch]
