"""The optimizers that a script has made, and their steps, through torch's global hooks."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

Hook = Callable[[Optimizer, tuple[Any, ...], dict[str, Any]], None]
TAKES_OVER = 2
"""An optimizer that steps so often while the one that is counted by does not is counted by from then on."""


class Optimizers:
    """All that were made since `watch`, in that order, and live."""

    def __init__(self) -> None:
        self._made: list[weakref.ref[Optimizer]] = []

    def watch(self) -> None:
        """Know every optimizer that is made from now on."""
        original, know = Optimizer.__init__, self.know

        @functools.wraps(original)
        def begins(self: Optimizer, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            know(self)

        Optimizer.__init__ = begins

    def know(self, optimizer: Optimizer) -> None:
        """This one too."""
        self._made.append(weakref.ref(optimizer))

    def __iter__(self) -> Iterator[Optimizer]:
        for made in self._made:
            optimizer = made()
            if optimizer is not None and hasattr(optimizer, "param_groups"):
                yield optimizer

    def of(self, parameters: Collection[int]) -> list[Optimizer]:
        """Those that step any of these parameters, by id."""
        return [optimizer for optimizer in self if parameters_of(optimizer) & set(parameters)]


def parameters_of(optimizer: Optimizer) -> set[int]:
    """The ids of what it steps."""
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


class Together(Optimizer):
    """Every optimizer of a model as one: those that are made later too.

    Steps are counted by one of them: the first that steps, or, where that rests, the one that steps on. The settings of the first
    one stand for all.
    """

    def __init__(self, optimizers: Optimizers, own: set[int]) -> None:
        """`own`: the ids of the model's parameters. Not torch's: this is no optimizer that the script has made."""
        self._all, self._own = optimizers, own
        self._leader: weakref.ref[Optimizer] | None = None
        self._others: dict[int, int] = {}
        register_optimizer_step_pre_hook(self._look)

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of all, less parameters that are not the model's."""
        groups = [group for optimizer in self._all.of(self._own) for group in optimizer.param_groups]
        return [{**group, "params": [p for p in group["params"] if id(p) in self._own]} for group in groups]

    @property
    def state(self) -> _States:  # pyright: ignore[reportIncompatibleVariableOverride]
        """By parameter, of all."""
        return _States(self._all, self._own)

    def register_step_pre_hook(self, hook: Hook) -> RemovableHandle:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As torch's, of steps that are counted."""
        return register_optimizer_step_pre_hook(self._counted(hook))

    def register_step_post_hook(self, hook: Hook) -> RemovableHandle:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As torch's, of steps that are counted."""
        return register_optimizer_step_post_hook(self._counted(hook))

    def _counted(self, hook: Hook) -> Hook:
        def call(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._leader is not None and self._leader() is optimizer:
                hook(optimizer, args, kwargs)

        return call

    def _look(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the hooks on this step: whether it is one that counts."""
        leader = None if self._leader is None else self._leader()
        if optimizer is leader:
            self._others.clear()
        elif parameters_of(optimizer) & self._own:
            steps = self._others[id(optimizer)] = self._others.get(id(optimizer), 0) + 1
            if leader is None or steps >= TAKES_OVER:
                self._leader, self._others = weakref.ref(optimizer), {}


class _States(Mapping[Tensor, dict[str, Any]]):
    """What the optimizers keep of each parameter."""

    def __init__(self, optimizers: Optimizers, own: Collection[int]) -> None:
        self._all, self._own = optimizers, own

    def _merged(self) -> dict[Tensor, dict[str, Any]]:
        found = [item for optimizer in self._all.of(self._own) for item in optimizer.state.items()]
        return {parameter: state for parameter, state in found if id(parameter) in self._own}

    def __getitem__(self, parameter: Tensor) -> dict[str, Any]:
        return self._merged()[parameter]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._merged())

    def __len__(self) -> int:
        return len(self._merged())

    def clear(self) -> None:
        """Begin anew."""
        for optimizer in self._all.of(self._own):
            optimizer.state.clear()
