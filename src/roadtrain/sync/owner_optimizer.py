"""Rules: what an owner does with a folded contribution.

The run's optimizer and the outer optimizers are torch's own, on the flat vector of one fragment (elementwise optimizers do
not see how parameters are cut). `foreach=False` keeps owner and standby, and any cut into fragments, equal to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from roadtrain.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSpec:
    """A rule as data. `name`: "sgd", "adamw", "onebit-adam", "delayed-nesterov", "average" (for buffers) or "own".

    `averaged`: so many first steps take the mean as it is (with lr 1, without momentum). `freeze`: gradients that the second
    moment of 1-bit Adam sees. `total`: steps of the learning-rate schedule. `make`: of one's own, a rule for the values of a
    fragment.
    """

    name: str
    lr: float = 1.0
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    beta2: float = 0.999
    averaged: int = 0
    freeze: int = 0
    warmup: int = 0
    total: int = 0
    cosine: bool = False
    make: Callable[[Tensor], OwnerOptimizer] | None = None

    @staticmethod
    def from_plan(plan: Plan) -> OptimizerSpec:
        """The run's own optimizer."""
        o = plan.optimizer
        return OptimizerSpec(
            name=o.name,
            lr=o.lr,
            momentum=o.momentum,
            weight_decay=o.weight_decay,
            beta2=o.beta2,
            freeze=o.freeze if o.freeze is not None else max(1, plan.job.steps // 5),
            warmup=o.warmup,
            total=plan.job.steps,
            cosine=o.schedule == "cosine",
        )

    def lr_at(self, step: int) -> float:
        """Learning rate of step 1, 2, ...: linear warm-up, then constant or a cosine down to a tenth."""
        if step <= self.warmup:
            return self.lr * step / self.warmup
        if not self.cosine:
            return self.lr
        done = min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))
        return self.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def torch_optimizer(spec: OptimizerSpec, parameters: list[Any], fused: bool = True) -> torch.optim.Optimizer:
    """torch's optimizer for `spec` over `parameters`; fused: it walks memory once, where the plain loop does five times."""
    if spec.name == "adamw":
        return torch.optim.AdamW(
            parameters, lr=spec.lr, betas=(0.9, spec.beta2), weight_decay=spec.weight_decay, fused=fused
        )
    return torch.optim.SGD(
        parameters,
        lr=spec.lr,
        momentum=spec.momentum,
        nesterov=spec.nesterov,
        weight_decay=spec.weight_decay,
        fused=fused,
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the learning rate `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr


class OwnerOptimizer(Protocol):
    """Applies one folded contribution to the values of a fragment, in place."""

    def update(self, theta: Tensor, mean: Tensor, step: int, share: float) -> None:
        """`step`: 1, 2, ... for the schedule. `share`: part of all contributions of a clock that `mean` stands for."""
        ...

    def state(self) -> dict[str, Tensor]: ...

    def load(self, state: dict[str, Tensor]) -> None: ...


def make_owner_optimizer(spec: OptimizerSpec, theta: Tensor) -> OwnerOptimizer:
    """The rule that `spec` describes, for the values `theta`."""
    if spec.make is not None:
        return spec.make(theta)
    match spec.name:
        case "average":
            return Average()
        case "delayed-nesterov":
            return DelayedNesterov(spec, theta)
        case _:
            return TorchOptimizer(spec, theta)


class TorchOptimizer:
    """A torch optimizer on one flat tensor."""

    def __init__(self, spec: OptimizerSpec, theta: Tensor) -> None:
        self._spec = spec
        self._theta = theta
        self._optimizer = torch_optimizer(spec, [theta])

    def update(self, theta: Tensor, mean: Tensor, step: int, share: float) -> None:
        if step <= self._spec.averaged:
            theta.sub_(mean)
            return
        theta.grad = mean
        set_lr(self._optimizer, self._spec.lr_at(step))
        self._optimizer.step()
        theta.grad = None

    def state(self) -> dict[str, Tensor]:
        """Tensors of torch's state of this one parameter, by torch's names."""
        found: dict[str, Any] = self._optimizer.state.get(self._theta, {})
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def load(self, state: dict[str, Tensor]) -> None:
        self._optimizer.state[self._theta] = dict(state)


class Average:
    """Buffers (BatchNorm statistics): the weighted mean of what the replicas hold, or a step of its share towards it."""

    def update(self, theta: Tensor, mean: Tensor, step: int, share: float) -> None:
        theta.lerp_(mean, share) if share < 1 else theta.copy_(mean)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Nothing to load: the average has no state."""


class DelayedNesterov:
    """Momentum for contributions that come one by one: refreshed once every N, of which each counts 1/N.

    Asynchronous local SGD (Liu et al. 2024, arXiv 2401.09135, algorithm 3, c = 0): momentum applied to every single
    contribution would count the same direction N times. N is the number of workers.
    """

    def __init__(self, spec: OptimizerSpec, theta: Tensor) -> None:
        self._spec = spec
        self._state = {
            "momentum": torch.zeros_like(theta),
            "gathered": torch.zeros_like(theta),
            "step": torch.zeros((), dtype=torch.float32),
        }

    def update(self, theta: Tensor, mean: Tensor, step: int, share: float) -> None:
        momentum, gathered, count = self._state["momentum"], self._state["gathered"], self._state["step"]
        theta.add_(mean, alpha=-self._spec.lr * share)
        gathered.add_(mean, alpha=share)
        count += 1
        if int(count) >= round(1 / share):
            momentum.mul_(self._spec.momentum).add_(gathered)
            theta.add_(momentum, alpha=-self._spec.lr * self._spec.momentum)
            gathered.zero_()
            count.zero_()

    def state(self) -> dict[str, Tensor]:
        return dict(self._state)

    def load(self, state: dict[str, Tensor]) -> None:
        self._state |= state
