"""A whole replica on one worker: forward, backward, step, and a session that agrees with the others.

Who steps: the owners (ssgd, asgd, ssp), this worker between agreements (localsgd, diloco, streaming), or this worker with the
mean of all gradients (ssgd with clipping, which needs all of the mean).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from roadtrain.session.entrance import Asked, Given
from roadtrain.session.gradient_hooks import GradientHooks
from roadtrain.session.joining import Built
from roadtrain.session.payload import make_dense
from roadtrain.session.session import Session
from roadtrain.sync.owner_optimizer import OptimizerSpec, set_lr, torch_optimizer
from roadtrain.sync.strategy import Payload
from roadtrain.trainer.task import Batch


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """`loss` of a batch, in the numbers of `autocast`; `clip`: the largest norm of a gradient, 0 for any."""

    loss: Callable[[nn.Module, Batch], Tensor]
    autocast: Callable[[], Any]
    clip: float


class LocalOptimizer:
    """The run's optimizer at the worker, over the parameters that are trained, by name."""

    def __init__(self, spec: OptimizerSpec, trained: dict[str, nn.Parameter]) -> None:
        self._spec, self._names, self._trained = spec, list(trained), tuple(trained.values())
        self.torch = torch_optimizer(spec, list(trained.values()))

    def set_lr(self, step: int) -> None:
        """The schedule's learning rate of step 1, 2, ..."""
        set_lr(self.torch, self._spec.lr_at(step))

    def step(self) -> None:
        """Step wherever there is a gradient."""
        for parameter in self._trained:
            make_dense(parameter)
        self.torch.step()

    def forget(self) -> None:
        """Drop all moments."""
        self.torch.state.clear()

    def state(self) -> dict[str, Any]:
        """Its state by parameter name."""
        return {self._names[number]: state for number, state in self.torch.state_dict()["state"].items()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        numbers = {name: number for number, name in enumerate(self._names)}
        own = {numbers[name]: kept for name, kept in state.items()}
        self.torch.load_state_dict({"state": own, "param_groups": self.torch.state_dict()["param_groups"]})

    def nbytes(self) -> int:
        """Bytes of all moments."""
        moments = [t for state in self.torch.state.values() for t in state.values() if isinstance(t, Tensor)]
        return sum(t.numel() * t.element_size() for t in moments)


class ReplicaCompute:
    """`local`: the optimizer, unless the owners have it."""

    def __init__(
        self, model: nn.Module, built: Built, session: Session, how: Arithmetic, local: LocalOptimizer | None
    ) -> None:
        self._model, self._built, self._tensors, self._session = model, built, built.tensors, session
        self._how, self._local = how, local
        self._mean = built.terms.mean
        self._deltas = built.terms.strategy.payload is Payload.DELTA
        self._hooks = GradientHooks(built.fragments, built.tensors.trained)
        self._computes = False

    @property
    def step(self) -> int:
        return self._session.step

    def compute(self, batch: Batch, samples: int) -> Tensor:
        if self._session.asked:
            self._session.admit(self._given)
        with self._session.stats.timed("sync_wait_s"):
            self._session.begin()
        self._session.computed(samples)
        self._model.zero_grad(set_to_none=True)
        if self._local is not None:
            self._local.set_lr(self._session.rules.schedule)
        self._hooks.watch(self._early())
        self._computes = True
        with self._how.autocast():
            loss = self._how.loss(self._model, batch)
        self._tensors.check()
        loss.backward()
        self._hooks.ended()
        if self._mean:
            with self._session.stats.timed("sync_wait_s"):
                self._session.stepped()
        self._step()
        return loss.detach()

    def _step(self) -> None:
        """With the gradients that are there."""
        if self._how.clip:
            for parameter in self._tensors.trained.values():
                make_dense(parameter)
            torch.nn.utils.clip_grad_norm_(self._tensors.trained.values(), self._how.clip)
        if self._local is not None:
            self._local.step()

    def wait(self) -> None:
        """There is nothing to compute, and not all is done. Where every worker steps by itself, it does with the others' mean."""
        if self._session.asked:
            self._session.admit(self._given)
        before = self._session.rules.version
        if self._mean:
            self._model.zero_grad(set_to_none=True)
        if self._local is not None:
            self._local.set_lr(self._session.rules.schedule)
        with self._session.stats.timed("sync_wait_s"):
            self._session.wait()
        if self._mean and self._session.rules.version > before:
            self._step()

    def _given(self, asked: Asked) -> Given:
        given = self._built.given(asked, {}, self._session.rules)
        return given if self._local is None else given.with_optimizer(self._local.state())

    def _early(self) -> Callable[[int], None] | None:
        """What is done amid backward with a fragment whose gradients are all there. To clip, all of the gradient is needed."""
        if not self._session.gives_early or not self._session.rules.last:
            return None
        if self._mean:
            return self._session.give_early
        if self._how.clip:
            return None
        return self._step_and_give if self._deltas else self._session.give_early

    def _step_and_give(self, fragment: int) -> None:
        """Take the optimizer's step wherever there is a gradient, and contribute what that changed."""
        assert self._local is not None, "whoever contributes changes has an optimizer"
        self._local.step()
        self._local.torch.zero_grad(set_to_none=True)
        self._session.give_early(fragment)

    def stepped(self) -> None:
        if not self._mean:
            self._session.stepped()

    def finish(self) -> None:
        self._session.finish()

    # ---------------------------------------------------------------------------------------------------- state

    def local_state(self) -> dict[str, Any]:
        inner = {} if self._local is None else {"inner": self._local.state()}
        return {**inner, **self._session.local_state()}

    def load_local_state(self, state: dict[str, Any]) -> None:
        self._session.load_local_state(state)
        if self._local is not None:
            self._local.load(state.get("inner", {}))

    def carried_bytes(self) -> tuple[int, int]:
        return self._session.carried_bytes()

    def inside_bytes(self) -> int:
        return 0

    def state_bytes(self) -> int:
        gradients = self._tensors.trained.values() if self._computes else ()
        held = sum(t.numel() * t.element_size() for t in (*self._tensors.values(), *gradients))
        return held + self._session.held_bytes() + (0 if self._local is None else self._local.nbytes())
