"""localsgd, diloco: local optimizer steps, then what they changed since the published state, once a period."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roadtrain.sync.fragment import gather
from roadtrain.sync.ledger import all_finite
from roadtrain.sync.owner_optimizer import OptimizerSpec, set_lr, torch_optimizer
from roadtrain.session.gradient_hooks import GradientHooks
from roadtrain.trainer.local_step import ReplicaStep
from roadtrain.trainer.task import Batch


class DeltaStep(ReplicaStep):
    """In the last step of a period the optimizer follows backward: what a fragment's gradients have changed is on its way
    while those of earlier layers are still computed."""

    def __init__(self, *args: Any, inner: OptimizerSpec, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._inner = inner
        self._optimizer = torch_optimizer(inner, list(self._trained.values()))
        self._backward = GradientHooks(self._fragments, self._trained)
        self._step = self._shared = self._begun
        self._samples = self._unagreed = 0
        self._finite = True

    def compute(self, batch: Batch, step: int) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        set_lr(self._optimizer, self._inner.lr_at(step))
        self._unagreed += len(batch[0])
        self._backward.watch(self._step_and_push if self._closes(step) else None)
        loss = self._forward(batch)
        loss.backward()
        self._clip_gradient()
        self._optimizer.step()
        return loss.detach()

    def _closes(self, step: int) -> bool:
        """Whether this local step ends a period, and its optimizer may follow backward: to clip, it has to wait."""
        return self._pace.last and not self._clip and self._strategy.ends_period(step, self._begun)

    def _step_and_push(self, number: int) -> None:
        """Amid backward: take the optimizer's step wherever there is a gradient, and contribute the fragment."""
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._push(number, self._samples + self._unagreed)

    def _push(self, number: int, samples: int) -> None:
        self._finite &= self._put_delta(number)
        self._contribute(number, samples)

    def agree(self, step: int, samples: int) -> None:
        self._step = step
        self._samples, self._unagreed = self._samples + samples, 0
        if self._strategy.ends_period(step, self._begun):
            self.finish()

    def finish(self) -> None:
        if self._step == self._shared:
            return
        for number in range(len(self._fragments)):
            if number not in self._pending:
                self._push(number, self._samples)
        self._samples, self._shared = 0, self._step
        if not self._finite:
            self._forget()
        self._install(sorted(self._pending))

    def _put_delta(self, number: int) -> bool:
        """What was changed since the published state, into the fragment's outgoing vector; buffers as they are.

        Returns whether it is finite. If not, the owner will refuse it.
        """
        fragment, value = self._fragments[number], self._outgoing[number]
        gather(fragment, self._tensors, value)
        held = self._exchange.mirror.held[number]
        if held is not None and not fragment.buffers:
            torch.sub(held, value, out=value)
        return all_finite(value)

    def _forget(self) -> None:
        """The moments that made what is not finite would make it again."""
        self._optimizer.state.clear()
        self._finite = True

    def local_state(self) -> dict[str, Any]:
        names = list(self._trained)
        state = {names[i]: s for i, s in self._optimizer.state_dict()["state"].items()}
        return {"inner": state, "residual": self._exchange.mirror.residuals(), "pace": self._pace.state()}

    def load_local_state(self, state: dict[str, Any]) -> None:
        self._exchange.mirror.load_residuals(state.get("residual", {}))
        self._pace.load(state.get("pace", {}))
        numbers = {name: i for i, name in enumerate(self._trained)}
        own = {numbers[name]: s for name, s in state.get("inner", {}).items()}
        self._optimizer.load_state_dict({"state": own, "param_groups": self._optimizer.state_dict()["param_groups"]})

    def state_bytes(self) -> int:
        moments = [t for s in self._optimizer.state.values() for t in s.values() if isinstance(t, Tensor)]
        return self._model_bytes() + sum(t.numel() * t.element_size() for t in moments)
