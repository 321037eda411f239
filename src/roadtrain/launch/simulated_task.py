"""A task as a problem of a simulation: the gradients that real workers would compute, by one model in one process."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from roadtrain.plan import Plan
from roadtrain.session.device import DTYPES, pick_device, seed_batch
from roadtrain.sync.fragment import Fragment, fragments_of, gathered, limit_bytes, scatter, travelling
from roadtrain.sync.strategy import mean_at_workers
from roadtrain.trainer.sampler import Sampler
from roadtrain.trainer.task import Task


class SimulatedTask:
    """What `trainer.Trainer` computes with the same plan: same weights at the start, same samples, same random draws.

    One model serves all workers: each one's values are written into it before it computes.
    """

    def __init__(self, plan: Plan, task: Task, contributions_max: int | None = None) -> None:
        """`contributions_max`: to fragments, by all workers in one period; where there would be more, fragments are larger
        than a real run's."""
        self.task = task
        self._job, self._device = plan.job, pick_device(plan.place.device)
        self._clip = 0.0 if mean_at_workers(plan) else plan.optimizer.clip
        torch.manual_seed(plan.job.seed)
        self.model = task.build().to(dtype=DTYPES[plan.job.precision], device=self._device)
        parameters, buffers = travelling(self.model)
        workers, wanted = plan.place.workers, int(plan.sync.fragment_mb * 1e6)
        limit = limit_bytes(self.model, wanted, workers)
        self.fragments = fragments_of(self.model, limit)
        if contributions_max is not None:
            self.fragments = _fewer(self.fragments, self.model, limit, max(1, contributions_max // workers))
        self._tensors = {**parameters, **buffers}
        self._trained = dict(self.model.named_parameters())
        self._start = [gathered(fragment, self._tensors) for fragment in self.fragments]
        self._sampler = Sampler(len(task), plan.job.batch, plan.place.workers, plan.job.seed)

    def initial(self, fragment: int) -> Tensor:
        return self._start[fragment].clone()

    def samples(self, slot: int, batch: int) -> int:
        return self._job.batch

    def gradients(self, slot: int, batch: int, values: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
        self.load(values)
        self.model.zero_grad(set_to_none=True)
        with self._autocast():
            loss = self.task.loss(self.model, self._batch(slot, batch - 1))
        loss.backward()
        if self._clip:
            torch.nn.utils.clip_grad_norm_(self._trained.values(), self._clip)
        return float(loss.detach()), [self._made(fragment) for fragment in range(len(self.fragments))]

    def load(self, values: Sequence[Tensor]) -> None:
        """Write the vectors of all fragments into the model."""
        for fragment, value in zip(self.fragments, values, strict=True):
            scatter(fragment, value, self._tensors)

    def _batch(self, slot: int, number: int) -> tuple[Tensor, ...]:
        """Batch 0, 1, ... and its random draws, as `Trainer` has them."""
        batch = self.task.batch(self._sampler.indices(number, slot))
        seed_batch(self._device, self._job.seed, number, slot)
        return tuple(tensor.to(self._device) for tensor in batch)

    def _made(self, number: int) -> Tensor:
        fragment = self.fragments[number]
        if fragment.buffers:
            return gathered(fragment, self._tensors)
        found: dict[str, Tensor] = {}
        for name in dict.fromkeys(piece.name for piece in fragment.pieces):
            parameter = self._trained[name]
            found[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        return gathered(fragment, found)

    def _autocast(self) -> AbstractContextManager[object]:
        if self._job.precision != "bf16":
            return nullcontext()
        return torch.autocast(self._device.type, torch.bfloat16)


def _fewer(fragments: list[Fragment], model: nn.Module, limit: int, most: int) -> list[Fragment]:
    """`fragments`, which were cut at `limit` bytes, or larger ones: `most` of them, or as few as there can be."""
    whole = sum(fragment.nbytes for fragment in fragments)
    while len(fragments) > most and limit < whole:
        limit += 1 + limit // 8
        fragments = fragments_of(model, limit)
    return fragments
