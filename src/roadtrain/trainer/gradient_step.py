"""ssgd, asgd, ssp: one gradient per step; the owners hold the optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roadtrain.sync.fragment import Fragment, gather
from roadtrain.session.gradient_hooks import GradientHooks
from roadtrain.trainer.local_step import ReplicaStep
from roadtrain.trainer.task import Batch


class GradientStep(ReplicaStep):
    """Pushes each fragment as soon as backward has made its gradient, so communication runs beside the rest of backward.

    With an unbounded gate (asgd) the answer to a step is awaited only when the next one has been computed, so the exchange
    runs beside a whole step.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._behind = self._strategy.staleness is None
        self._beside = False
        self._samples = 0
        self._unpushed: set[int] = set()
        self._backward = GradientHooks(self._fragments, self._trained)

    def compute(self, batch: Batch, step: int) -> Tensor:
        self._samples = len(batch[0])
        self._beside = self._behind and not self._exchange.owns_everything()
        if not self._beside:
            self.finish()  # what was pushed when others still owned some
        self._unpushed = set(range(len(self._fragments)))
        whole = self._beside or self._clip > 0  # to clip, all of the gradient is needed
        self._backward.watch(None if whole else self._push)
        self._model.zero_grad(set_to_none=True)
        loss = self._forward(batch)
        loss.backward()
        self._clip_gradient()
        return loss.detach()

    def _push(self, number: int) -> None:
        fragment = self._fragments[number]
        self._unpushed.discard(number)
        tensors = self._tensors if fragment.buffers else self._gradients(fragment)
        gather(fragment, tensors, self._outgoing[number])
        self._contribute(number, self._samples)

    def _gradients(self, fragment: Fragment) -> dict[str, Tensor]:
        """Gradients by name; zeros for parameters that took no part in this step."""
        found: dict[str, Tensor] = {}
        for name in dict.fromkeys(piece.name for piece in fragment.pieces):
            parameter = self._trained[name]
            found[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        return found

    def agree(self, step: int, samples: int) -> None:
        if self._beside:
            self.finish()
        for number in sorted(self._unpushed):
            self._push(number)
        if not self._beside:
            self.finish()

    def finish(self) -> None:
        if self._pending:
            self._install(sorted(self._pending))

    def local_state(self) -> dict[str, Any]:
        return {"residual": self._exchange.mirror.residuals()}

    def load_local_state(self, state: dict[str, Any]) -> None:
        self._exchange.mirror.load_residuals(state.get("residual", {}))

    def state_bytes(self) -> int:
        return self._model_bytes()
