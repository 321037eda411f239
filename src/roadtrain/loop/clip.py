"""Clipping in a person's own loop: `clip=` of `rt.attach`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from roadtrain.loop.refusals import refuse_closure
from roadtrain.session.payload import make_dense


class Clip:
    """Scales gradients down whose norm together is above `norm`; 0 for any."""

    def __init__(self, optimizer: Optimizer, parameters: Iterable[nn.Parameter], norm: float) -> None:
        self._optimizer, self._parameters, self._norm = optimizer, list(parameters), norm

    def __call__(self, *_: Any) -> None:
        """Now: they are those that are stepped with, or given to the owners."""
        if not self._norm:
            return
        for parameter in self._parameters:
            make_dense(parameter)
        found = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(found)
        # torch.amp.GradScaler's, where a fused optimizer divides by it inside its step.
        scale = getattr(self._optimizer, "grad_scale", None)
        torch.nn.utils.clip_grads_with_norm_(self._parameters, self._norm, norm if scale is None else norm / scale)

    def refuse_closure(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises UsageError for a step that computes its gradients inside, where nothing can clip them."""
        if self._norm:
            refuse_closure(args, kwargs, "clip", "clip in the closure, with torch.nn.utils.clip_grad_norm_")
