"""Rules: what an owner does with a folded contribution.

The run's optimizer and the outer optimizers work on the flat vector of one fragment: elementwise optimizers do not see how
parameters are cut. Owner and standby must come to the same bits on unequal machines, so the usual ones are written out in
`sync/elementwise.py`; their state has torch's names. A class that a person brings is torch's own, in torch's arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from roadtrain.codec import add_scaled
from roadtrain.plan import Plan
from roadtrain.sync.elementwise import adam_step, sgd_step, step_towards


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSpec:
    """A rule as data. `name`: "sgd", "adam", "adamw", "onebit-adam", "delayed-nesterov", "average" (for buffers), "mean" (of
    gradients that workers step with), "own", or of a class that a person brought.

    `averaged`: so many first steps take the mean as it is (with lr 1, without momentum). `freeze`: gradients that the second
    moment of 1-bit Adam sees. `total`: steps of the learning-rate schedule. `make`: of one's own, a rule for the values of a
    fragment. `brought`: a class of torch optimizers, made with `hyper`, its arguments by name.
    """

    name: str
    lr: float = 1.0
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    averaged: int = 0
    freeze: int = 0
    warmup: int = 0
    total: int = 0
    cosine: bool = False
    make: Callable[[Tensor], OwnerOptimizer] | None = None
    brought: type[torch.optim.Optimizer] | None = None
    hyper: tuple[tuple[str, Any], ...] = ()

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
        betas = (spec.beta1, spec.beta2)
        return torch.optim.AdamW(
            parameters, lr=spec.lr, betas=betas, eps=spec.eps, weight_decay=spec.weight_decay, fused=fused
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

    def update(self, theta: Tensor, mean: Tensor, step: int, share: float, lr: float | None = None) -> None:
        """`step`: 1, 2, ... for the schedule. `share`: part of all contributions of a clock that `mean` stands for.

        `lr`: a learning rate that the contribution brought, in place of the schedule's.
        """
        ...

    def state(self) -> dict[str, Tensor]: ...

    def load(self, state: dict[str, Tensor]) -> None: ...


def make_owner_optimizer(spec: OptimizerSpec, theta: Tensor) -> OwnerOptimizer:
    """The rule that `spec` describes, for the values `theta`."""
    if spec.make is not None:
        return spec.make(theta)
    if spec.brought is not None:
        return BroughtOptimizer(spec, spec.brought, theta)
    match spec.name:
        case "average":
            return Average()
        case "mean":
            return MeanGradient()
        case "delayed-nesterov":
            return DelayedNesterov(spec, theta)
        case "adam" | "adamw":
            return Adam(spec, theta)
        case _:
            return Sgd(spec, theta)


class Sgd:
    """SGD, with momentum or without. Its buffer is there from the first step on."""

    def __init__(self, spec: OptimizerSpec, theta: Tensor) -> None:
        self._spec = spec
        self._state: dict[str, Tensor] = {}

    def update(self, theta: Tensor, mean: Tensor, step: int, share: float, lr: float | None = None) -> None:
        spec = self._spec
        if step <= spec.averaged:
            theta.sub_(mean)
            return
        if spec.momentum and not self._state:
            self._state = {"momentum_buffer": torch.zeros_like(theta)}
        sgd_step(
            theta,
            mean,
            self._state.get("momentum_buffer"),
            lr=spec.lr_at(step) if lr is None else lr,
            momentum=spec.momentum,
            nesterov=spec.nesterov,
            weight_decay=spec.weight_decay,
        )

    def state(self) -> dict[str, Tensor]:
        return dict(self._state)

    def load(self, state: dict[str, Tensor]) -> None:
        self._state = dict(state)


class Adam:
    """Adam, and AdamW, whose weight decay is decoupled. Its moments are there from the first step on."""

    def __init__(self, spec: OptimizerSpec, theta: Tensor) -> None:
        self._spec = spec
        self._state: dict[str, Tensor] = {}

    def update(self, theta: Tensor, mean: Tensor, step: int, share: float, lr: float | None = None) -> None:
        spec = self._spec
        if not self._state:
            self._state = {name: torch.zeros_like(theta) for name in ("exp_avg", "exp_avg_sq")}
            self._state["step"] = torch.zeros((), dtype=torch.float32)
        self._state["step"] += 1
        adam_step(
            theta,
            mean,
            self._state["exp_avg"],
            self._state["exp_avg_sq"],
            int(self._state["step"]),
            lr=spec.lr_at(step) if lr is None else lr,
            betas=(spec.beta1, spec.beta2),
            eps=spec.eps,
            weight_decay=spec.weight_decay,
            decoupled=spec.name == "adamw",
        )

    def state(self) -> dict[str, Tensor]:
        return dict(self._state)

    def load(self, state: dict[str, Tensor]) -> None:
        self._state = dict(state)


class BroughtOptimizer:
    """An elementwise optimizer of torch's kind on one flat tensor. Unequal CPUs may round it differently."""

    def __init__(self, spec: OptimizerSpec, brought: type[torch.optim.Optimizer], theta: Tensor) -> None:
        self._spec = spec
        self._theta = theta
        self._make = partial(brought, [theta], **dict(spec.hyper))
        self._optimizer = self._make()

    def update(self, theta: Tensor, mean: Tensor, step: int, share: float, lr: float | None = None) -> None:
        theta.grad = mean
        set_lr(self._optimizer, self._spec.lr_at(step) if lr is None else lr)
        self._optimizer.step()
        theta.grad = None

    def state(self) -> dict[str, Tensor]:
        """Tensors of the state of this one parameter, by the optimizer's names."""
        found: dict[str, Any] = self._optimizer.state.get(self._theta, {})
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def load(self, state: dict[str, Tensor]) -> None:
        self._optimizer = self._make()  # some make their state at once, which is that of an empty one
        if state:
            self._optimizer.state[self._theta] = dict(state)


class Average:
    """Buffers (BatchNorm statistics): the weighted mean of what the replicas hold, or a step of its share towards it."""

    def update(self, theta: Tensor, mean: Tensor, step: int, share: float, lr: float | None = None) -> None:
        step_towards(theta, mean, share) if share < 1 else theta.copy_(mean)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Nothing to load: the average has no state."""


class MeanGradient(Average):
    """The mean of a round's gradients, which every worker steps with. Where none was accepted there is none: not the last one."""


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

    def update(self, theta: Tensor, mean: Tensor, step: int, share: float, lr: float | None = None) -> None:
        momentum, gathered, count = self._state["momentum"], self._state["gathered"], self._state["step"]
        lr = self._spec.lr if lr is None else lr
        add_scaled(theta, mean, -lr * share)
        add_scaled(gathered, mean, share)
        count += 1
        if int(count) >= round(1 / share):
            momentum.mul_(self._spec.momentum).add_(gathered)
            add_scaled(theta, momentum, -lr * self._spec.momentum)
            gathered.zero_()
            count.zero_()

    def state(self) -> dict[str, Tensor]:
        return dict(self._state)

    def load(self, state: dict[str, Tensor]) -> None:
        self._state |= state
