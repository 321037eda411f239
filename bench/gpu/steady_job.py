"""The recipe `gpt` as a job whose steps may not wait for the GPU, from the fifth to the fifteenth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import roadtrain as rt
from roadtrain.recipes import gpt

DEFAULTS = gpt.DEFAULTS


class Watched:
    """A task, and torch raises where one of those steps copies something to the host, or asks for a value."""

    def __init__(self, task: Any) -> None:
        self._task, self._losses = task, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def __len__(self) -> int:
        return len(self._task)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self._losses += 1
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("error" if 5 <= self._losses < 15 else "default")
        return self._task.loss(model, batch)


def make(plan: rt.Plan, *, layers: int = 2, width: int = 128, heads: int = 4, context: int = 64) -> Watched:
    """The task."""
    return Watched(gpt.make(plan, layers=layers, width=width, heads=heads, context=context))
