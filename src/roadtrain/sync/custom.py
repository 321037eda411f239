"""A strategy of the person's own: a class named FILE.py:CLASS that says

    every = 1                 local steps between two contributions
    payload = "gradient"      or "delta": what the optimizer's steps have changed since the agreed state
    applied = "round"         all of a clock as one weighted mean; or "each": at once, when it comes
    staleness = 0             clocks a worker may be ahead of the slowest; None: any number (only with "each")

and has one method, the rule by which the owner of a fragment applies a contribution:

    update(self, theta: Tensor, mean: Tensor, step: int, share: float, state: dict[str, Tensor]) -> None

It changes `theta` [numel] in place. `mean`: the contribution. `step`: 1, 2, ... `share`: the part of all workers that the
contribution stands for (1 in rounds). `state`: tensors like theta that it may keep there, empty at first; owners save them,
hand them over and give them to standbys, so the object itself keeps nothing. Two owners with the same inputs must come to the
same bits: no clock, no random numbers; and on unequal machines no `alpha=`, `lerp_` or `addcmul_`, which some of them fuse.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from roadtrain.errors import UsageError
from roadtrain.plan import Plugin
from roadtrain.plan.plugin import told
from roadtrain.sync.owner_optimizer import OptimizerSpec, OwnerOptimizer

PAGE = "see docs/own_strategy.md"
TRIES = 100
"""Contributions by which a rule must have changed something: one that waits for several is not one that never does."""
PAYLOADS, AGGREGATIONS = ("gradient", "delta"), ("round", "each")


class CustomOptimizer:
    """The person's `update`, with the state that owners and standbys keep."""

    def __init__(self, strategy: Any, name: str, theta: Tensor) -> None:
        self._strategy, self._name = strategy, name
        self._like = (theta.shape, theta.dtype)
        self._state: dict[str, Tensor] = {}

    def update(self, theta: Tensor, mean: Tensor, step: int, share: float, lr: float | None = None) -> None:
        try:
            returned: object = self._strategy.update(theta, mean, step, share, self._state)
        except Exception as error:
            raise UsageError(f"{self._name}: update failed: {told(error)}", PAGE) from error
        if returned is not None:
            raise UsageError(
                f"{self._name}: update returns a value, which nobody takes", "change theta in place: theta.sub_(...)"
            )
        for name, value in cast(dict[str, object], self._state).items():
            if not isinstance(value, Tensor) or (value.shape, value.dtype) != self._like:
                raise UsageError(f"{self._name}: state['{name}'] is not a tensor like theta", PAGE)

    def state(self) -> dict[str, Tensor]:
        return dict(self._state)

    def load(self, state: dict[str, Tensor]) -> None:
        self._state = dict(state)


class Declared:
    """What a class declares, checked and tried. Raises UsageError where it is no strategy."""

    def __init__(self, own: Plugin) -> None:
        """Runs the file."""
        self._name = str(own)
        cls, _ = own.load()
        if not callable(getattr(cls, "update", None)):
            raise UsageError(f"{own} is no strategy: it has no update(theta, mean, step, share, state)", PAGE)
        try:
            self._strategy = cls()
        except Exception as error:
            raise UsageError(f"{own} cannot be made: {told(error)}", "it is made without arguments") from error
        self.every = self._whole("every", 1, 1)
        self.payload = self._one_of("payload", PAYLOADS)
        self.applied = self._one_of("applied", AGGREGATIONS)
        asked: object = getattr(self._strategy, "staleness", 0)
        self.staleness = None if asked is None else self._whole("staleness", 0, 0)
        if self.applied == "round" and self.staleness != 0:
            raise UsageError(f"{own}: rounds have a staleness of 0, not {asked}", 'write applied = "each"')
        self._try_out()

    @property
    def rule(self) -> OptimizerSpec:
        """Makes a rule of this strategy for each fragment."""
        return OptimizerSpec(name="own", make=self._rule)

    def _rule(self, theta: Tensor) -> OwnerOptimizer:
        return CustomOptimizer(self._strategy, self._name, theta)

    def _whole(self, name: str, default: int, lowest: int) -> int:
        value: object = getattr(self._strategy, name, default)
        if type(value) is not int or value < lowest:
            raise UsageError(f"{self._name}: {name} is {value!r}; wanted a whole number from {lowest}", PAGE)
        return value

    def _one_of(self, name: str, choices: tuple[str, ...]) -> str:
        value: object = getattr(self._strategy, name, choices[0])
        if value not in choices:
            raise UsageError(f"{self._name}: {name} is {value!r}; wanted {' or '.join(map(repr, choices))}", PAGE)
        return str(value)

    def _try_out(self) -> None:
        """Contributions to a small vector, twice: they must come to the same finite values, and to others than it had."""
        one, other = self._tried(), self._tried()
        if not bool(one.isfinite().all()):
            raise UsageError(f"{self._name}: update made values that are not finite of finite ones", PAGE)
        if not torch.equal(one, other):
            raise UsageError(f"{self._name}: update gives other values the second time", PAGE)
        if torch.equal(one, torch.linspace(-1, 1, 7)):
            raise UsageError(
                f"{self._name}: update leaves theta as it was, so that nothing is trained",
                "change theta in place: theta.sub_(...), not theta = theta - ...",
            )

    def _tried(self) -> Tensor:
        """The vector after three contributions, or after the first of many by which it changes."""
        first = torch.linspace(-1, 1, 7)
        theta, rule = first.clone(), self._rule(first)
        for step in range(1, TRIES + 1):
            rule.update(theta, torch.linspace(0.1, 0.2, 7) * step, step, 1.0)
            if step >= 3 and not torch.equal(theta, first):
                break
        return theta
