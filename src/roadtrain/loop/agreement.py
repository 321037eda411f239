"""Where a person's own loop and a session meet: in backward, or in the optimizer's step.

| strategy | hooked on | what the person's optimizer does |
|---|---|---|
| ssgd | `backward`: when it returns every `.grad` is the mean | steps, at every worker |
| localsgd, diloco, streaming, async-diloco | the optimizer's step, when it is over | steps, at every worker |
| asgd, ssp | the optimizer's step, before it begins | nothing: fragments' owners step, with its settings |
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch.optim import Optimizer

from roadtrain.errors import UsageError
from roadtrain.loop.clip import Clip
from roadtrain.loop.refusals import refuse_closure, refuse_step
from roadtrain.session.gradient_hooks import GradientHooks
from roadtrain.session.joining import Built
from roadtrain.session.session import Session


class Turns(NamedTuple):
    """Is called before a step is agreed on, when there are gradients to clip, and when the optimizer has stepped."""

    begins: Callable[[], None]
    clip: Clip
    stepped: Callable[[], None]


class Agreement(Protocol):
    """How steps of a loop are agreed on. `owners_step`: the person's optimizer does not."""

    owners_step: bool

    def no_sync(self) -> AbstractContextManager[None]:
        """Gradients that are made inside stay this worker's until one is made outside."""
        ...

    def sync_backward(self, on: bool) -> None:
        """Whether gradients that are made from now on are agreed on in their backward pass; `no_sync` says so for a block."""
        ...

    def took(self, samples: int) -> None:
        """The next forward and backward are on so many samples."""
        ...

    def remove(self) -> None:
        """Hook on nothing any more."""
        ...


class _Samples:
    """Samples since the last agreement, as the loader counts them; without one every step weighs the same."""

    def __init__(self) -> None:
        self._taken = 0

    def took(self, samples: int) -> None:
        self._taken += samples

    def weigh(self) -> int:
        """What the next contribution weighs."""
        taken, self._taken = self._taken, 0
        return taken or 1


class InBackward:
    """ssgd. Fragments travel while backward computes the gradients of earlier layers."""

    owners_step = False

    def __init__(self, session: Session, built: Built, optimizer: Optimizer, turns: Turns) -> None:
        self._session, self._tensors = session, built.tensors
        session.lr_of = lambda group: float(optimizer.param_groups[0]["lr"])  # owners look whether all step alike
        self._hooks = GradientHooks(built.fragments, built.tensors.trained)
        self._samples = _Samples()
        self._sync = True
        self._agreed = self._begun = False
        self._turns = turns
        self._on_step = _OnStep(optimizer, self._before_step, self._after_step)
        self._unpatch = _after_backward(self._backward_ended)
        self._arm()

    @contextmanager
    def no_sync(self):
        self.sync_backward(False)
        try:
            yield
        finally:
            self.sync_backward(True)

    def sync_backward(self, on: bool) -> None:
        self._sync = on
        self._arm()

    def took(self, samples: int) -> None:
        self._samples.took(samples)

    def _arm(self) -> None:
        """Ready for the next backward pass."""
        self._begun = False
        self._hooks.watch(self._ready if self._sync else None)

    def _ready(self, fragment: int) -> None:
        self._begin()
        if self._session.gives_early:
            with self._session.stats.timed("sync_wait_s"):
                self._session.give_early(fragment)

    def _begin(self) -> None:
        if not self._begun:
            self._turns.begins()
            self._begun = True
            self._session.begin()
            self._session.computed(self._samples.weigh())

    def _backward_ended(self) -> None:
        if not self._hooks.fired:
            return  # of something else
        self._hooks.ended()
        if self._sync:
            self._agree()
        self._arm()

    def _agree(self) -> None:
        self._begin()
        with self._session.stats.timed("sync_wait_s"):
            self._session.stepped()
        self._agreed = True

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        refuse_closure(args, kwargs, "ssgd")
        self._tensors.check()
        if not self._agreed:
            if any(parameter.grad is not None for parameter in self._tensors.trained.values()):
                raise UsageError(
                    "optimizer.step() finds gradients that were not agreed on",
                    "let the last backward before it be outside sync.no_sync()",
                )
            self._agree()  # nothing took part here: others may have gradients
            self._arm()
        self._agreed = False
        self._turns.clip()

    def _after_step(self, *_: Any) -> None:
        self._turns.stepped()

    def remove(self) -> None:
        self._unpatch()
        self._hooks.remove()
        self._on_step.end()


class AfterStep:
    """Strategies of local steps."""

    owners_step = False

    def __init__(self, session: Session, built: Built, optimizer: Optimizer, turns: Turns) -> None:
        self._session, self._tensors = session, built.tensors
        self._samples = _Samples()
        self._turns = turns
        self._on_step = _OnStep(optimizer, self._before_step, self._after_step)

    def no_sync(self) -> AbstractContextManager[None]:
        return nullcontext()  # nothing is agreed on between steps

    def sync_backward(self, on: bool) -> None:
        """Nothing is agreed on in backward passes."""

    def took(self, samples: int) -> None:
        self._samples.took(samples)

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._turns.clip.refuse_closure(optimizer, args, kwargs)
        self._turns.begins()
        self._tensors.check()
        self._turns.clip()
        self._session.begin()

    def _after_step(self, *_: Any) -> None:
        self._session.computed(self._samples.weigh())
        with self._session.stats.timed("sync_wait_s"):
            self._session.stepped()
        self._turns.stepped()

    def remove(self) -> None:
        self._on_step.end()


class BeforeStep:
    """asgd, ssp: the step is the owners'. The person's optimizer finds no gradients, and so changes nothing."""

    owners_step = True

    def __init__(self, session: Session, built: Built, optimizer: Optimizer, turns: Turns) -> None:
        self._session, self._tensors = session, built.tensors
        self._samples = _Samples()
        self._turns = turns
        self._settings = [_constant(group) for group in optimizer.param_groups]
        # A rate of 0 would say that the owner keeps the schedule.
        session.lr_of = lambda group: max(float(optimizer.param_groups[group]["lr"]), sys.float_info.min)
        self._on_step = _OnStep(optimizer, self._before_step, self._after_step)

    def no_sync(self) -> AbstractContextManager[None]:
        return nullcontext()  # nothing is agreed on between steps

    def sync_backward(self, on: bool) -> None:
        """Nothing is agreed on in backward passes."""

    def took(self, samples: int) -> None:
        self._samples.took(samples)

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        refuse_closure(args, kwargs, "asgd and ssp")
        self._turns.begins()
        self._tensors.check()
        self._check(optimizer)
        self._turns.clip()
        self._session.begin()
        self._session.computed(self._samples.weigh())
        with self._session.stats.timed("sync_wait_s"):
            self._session.stepped()
        for parameter in self._tensors.trained.values():
            parameter.grad = None

    def _check(self, optimizer: Optimizer) -> None:
        """Raises UsageError for what the owners would do otherwise than this optimizer."""
        if [_constant(group) for group in optimizer.param_groups] != self._settings:
            raise UsageError(
                "a setting of the optimizer other than its learning rate has changed, and the owners would not know",
                "with OneCycleLR give cycle_momentum=False; ssgd, localsgd and diloco take any",
            )
        for name, parameter in self._tensors.trained.items():
            if parameter.grad is None:
                raise UsageError(
                    f"{name} has no gradient in this step, and the owners would step it all the same",
                    "freeze it with requires_grad_(False), or use ssgd, localsgd or diloco",
                )

    def _after_step(self, *_: Any) -> None:
        self._turns.stepped()

    def remove(self) -> None:
        self._on_step.end()


class Alone:
    """A fleet of one: the loop computes what it would without roadtrain."""

    owners_step = False

    def __init__(self, optimizer: Optimizer, clip: Clip, stepped: Callable[[], None]) -> None:
        self._handles = [
            optimizer.register_step_pre_hook(clip.refuse_closure),
            optimizer.register_step_pre_hook(clip),
            optimizer.register_step_post_hook(lambda *_: stepped()),
        ]

    def no_sync(self) -> AbstractContextManager[None]:
        return nullcontext()

    def sync_backward(self, on: bool) -> None:
        """There is nobody to agree with."""

    def took(self, samples: int) -> None:
        """Nobody weighs it."""

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def _constant(group: dict[str, Any]) -> dict[str, Any]:
    """What of a parameter group the owners have taken over, and no contribution says again."""
    return {name: value for name, value in group.items() if name not in ("params", "lr", "initial_lr")}


class _OnStep:
    """Hooks on an optimizer's step."""

    def __init__(
        self,
        optimizer: Optimizer,
        before: Callable[[Optimizer, tuple[Any, ...], dict[str, Any]], None],
        after: Callable[..., None],
    ) -> None:
        self._optimizer = optimizer
        self._handles = [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]

    def end(self) -> None:
        """From now on there is none to hook on: a further step is refused."""
        for handle in self._handles:
            handle.remove()
        self._optimizer.register_step_pre_hook(refuse_step)


def _after_backward(ended: Callable[[], None]) -> Callable[[], None]:
    """Call `ended` whenever a backward pass of this thread is over; returns what undoes it.

    torch's own callbacks at the end of a pass run too early where a block is computed again inside it (reentrant checkpointing
    runs a pass of its own), and hooks of a model's outputs see only models that are called as a whole.
    """
    original, thread = torch.autograd.backward, threading.get_ident()

    def backward(*args: Any, **kwargs: Any) -> None:
        nested = torch._C._current_graph_task_id() != -1  # pyright: ignore[reportAttributeAccessIssue]
        original(*args, **kwargs)
        if not nested and threading.get_ident() == thread:
            ended()

    def undo() -> None:
        if torch.autograd.backward is backward:
            torch.autograd.backward = original

    torch.autograd.backward = backward
    return undo
