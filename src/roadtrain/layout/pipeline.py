"""A pipeline: stages on ranks, micro-batches through torch's schedules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B

from roadtrain.errors import UsageError
from roadtrain.layout.options import Batch, Options
from roadtrain.layout.stage import Part, keywords

SCHEDULES = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B, "interleaved": ScheduleInterleaved1F1B}


class Pipeline:
    """This rank's stages. Batches may change their shape: a schedule is made for each, as torch's hold on to their first."""

    def __init__(
        self, stages: Sequence[nn.Module], cuts: Sequence[Part], options: Options, group: ProcessGroup
    ) -> None:
        self._modules, self._parts = stages, cuts
        self._options, self._group = options, group
        self._schedules: dict[tuple[torch.Size, ...], ScheduleGPipe | Schedule1F1B | ScheduleInterleaved1F1B] = {}

    def forward_backward(self, batch: Batch) -> Tensor | None:
        """Gradients of the mean loss of `batch`; the loss itself where the last stage is, elsewhere None."""
        if len(batch[0]) % self._options.pieces:
            raise UsageError(
                f"a batch of {len(batch[0])} cannot be cut into {self._options.pieces} micro-batches",
                "change --micro-batches",
            )
        shapes = tuple(tensor.shape for tensor in batch)
        if shapes not in self._schedules:
            self._schedules = {shapes: self._schedule(batch[0].device)}
        first = any(part.cut is not None and part.cut.first for part in self._parts)
        last = any(part.cut is not None and part.cut.last for part in self._parts)
        losses: list[Tensor] = []
        given: dict[str, Any] = {"target": batch[0], "losses": losses} if last else {}
        given |= keywords(batch)
        self._schedules[shapes].step(*(batch[:1] if first else ()), return_outputs=False, **given)
        return torch.stack([loss.detach() for loss in losses]).mean() if last else None

    def _schedule(self, device: torch.device) -> ScheduleGPipe | Schedule1F1B | ScheduleInterleaved1F1B:
        stages = [
            PipelineStage(module, part.cut.index, self._options.stages, device, group=self._group)
            for module, part in zip(self._modules, self._parts, strict=True)
            if part.cut is not None
        ]
        kind = SCHEDULES[self._options.schedule]
        return kind(
            stages if kind is ScheduleInterleaved1F1B else stages[0],  # type: ignore[arg-type]
            n_microbatches=self._options.pieces,
            loss_fn=_already_computed,
        )


def _already_computed(output: Tensor, target: Tensor) -> Tensor:
    """The last stage gives its loss."""
    return output
