"""What a replica is made of, besides the model: its layout and how it computes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from roadtrain.plan import LayoutSpec, Plan, stage_speeds

Batch: TypeAlias = tuple[Tensor, ...]
Loss: TypeAlias = Callable[[nn.Module, Batch], Tensor]
"""Mean loss of a batch, which calls the model once."""


def autocast(plan: Plan, device: torch.device) -> Callable[[], Any]:
    """The context of a forward pass in the plan's precision: bf16 and fp16 compute in it, and keep their parameters."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(plan.job.precision)
    return nullcontext if dtype is None else lambda: torch.autocast(device.type, dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`pieces`: micro-batches of a batch. `gather`, `reduce`: codecs of parameters in shards and of their gradients. `autocast`:
    the context of a forward pass. `stage_speeds`: of the devices along pp; empty where they are to be measured."""

    spec: LayoutSpec
    pieces: int = 1
    schedule: str = "1f1b"
    stage_speeds: tuple[float, ...] = ()
    sequence_parallel: bool = False
    tp_plan: tuple[str, ...] = ()
    checkpoint_activations: bool = False
    offload: bool = False
    gather: str = "none"
    reduce: str = "none"
    autocast: Callable[[], Any] = nullcontext

    @classmethod
    def from_plan(cls, plan: Plan, spec: LayoutSpec, device: torch.device) -> Options:
        """What the plan says for a region with the layout `spec`."""
        asked = plan.layout
        pipelined = spec.pp > 1 and not spec.naive
        return cls(
            spec=spec,
            pieces=asked.micro_batches or (spec.pp if pipelined else 1),
            schedule="gpipe" if spec.naive else asked.schedule,
            stage_speeds=stage_speeds(plan, spec),
            sequence_parallel=asked.sequence_parallel,
            tp_plan=asked.tp_plan,
            checkpoint_activations=asked.activation_checkpointing,
            offload=asked.offload,
            gather=asked.gather_codec,
            reduce=asked.reduce_codec,
            autocast=autocast(plan, device),
        )

    @property
    def stages(self) -> int:
        """Stages of the pipeline, over all ranks."""
        return self.spec.pp * (2 if self.schedule == "interleaved" and self.spec.pp > 1 else 1)
