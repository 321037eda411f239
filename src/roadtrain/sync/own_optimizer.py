"""A person's `torch.optim.Optimizer` as a rule at owners, who see parts of the parameters as flat vectors.

That changes nothing for an optimizer that treats every value by itself. The class is made anew on each vector, with the
hyperparameters of its group; its state so far is not taken over.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import (
    ASGD,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
    Rprop,
)

from roadtrain.errors import UsageError
from roadtrain.sync.owner_optimizer import OptimizerSpec

ELEMENTWISE = (SGD, Adam, AdamW, RMSprop, Adagrad, Adadelta, Adamax, NAdam, RAdam, ASGD, Rprop)
ELSEWHERE = "ssgd, localsgd, diloco and streaming run it where it is"
SWITCHES = {"foreach": False, "fused": None, "capturable": False, "differentiable": False}
"""How a vector on the CPU is walked, whatever the person's parameters want."""


def specs_of(optimizer: Optimizer) -> tuple[OptimizerSpec, ...]:
    """A spec for each of its parameter groups. Raises UsageError where it does not treat every value by itself."""
    return tuple(_spec(type(optimizer), group) for group in optimizer.param_groups)


def _spec(cls: type[Optimizer], group: Mapping[str, Any]) -> OptimizerSpec:
    plain = not any(group.get(name) for name in ("maximize", "amsgrad", "dampening"))
    if cls is SGD and plain:
        names = ("lr", "momentum", "nesterov", "weight_decay")
        return OptimizerSpec(name="sgd", **{name: _number(group[name]) for name in names})
    if cls in (Adam, AdamW) and plain:
        beta1, beta2 = _number(group["betas"])
        name = "adamw" if cls is AdamW or group.get("decoupled_weight_decay") else "adam"
        numbers = {name: _number(group[name]) for name in ("lr", "eps", "weight_decay")}
        return OptimizerSpec(name=name, beta1=beta1, beta2=beta2, **numbers)
    hyper = _hyper(cls, group)
    if cls not in ELEMENTWISE and not (cls.__name__ == "Lion" and _is_elementwise(cls, hyper)):
        raise UsageError(f"optimizer {cls.__name__} cannot step on parts of the parameters, as owners do", ELSEWHERE)
    return OptimizerSpec(name=cls.__name__.lower(), lr=hyper["lr"], brought=cls, hyper=tuple(hyper.items()))


def _hyper(cls: type[Optimizer], group: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that make an optimizer like the group's, by name. The first is the parameters."""
    names = [name for name in list(inspect.signature(cls).parameters)[1:] if name in group]
    return {name: SWITCHES[name] if name in SWITCHES else _number(group[name]) for name in names}


def _number(value: Any) -> Any:
    """A hyperparameter, or a tuple of some, without tensors."""
    if isinstance(value, tuple | list):
        return tuple(_number(each) for each in cast(tuple[object, ...], value))
    return value.item() if isinstance(value, Tensor) else value


def _is_elementwise(cls: type[Optimizer], hyper: Mapping[str, Any]) -> bool:
    """Whether it can be made, and two halves of a vector come to what the whole vector does, in a few steps."""
    if "lr" not in hyper:
        return False
    try:
        whole = _stepped(cls, hyper, slice(0, 8))
        halves = [_stepped(cls, hyper, part) for part in (slice(0, 4), slice(4, 8))]
    except Exception:  # whatever a foreign class raises
        return False
    return torch.allclose(whole, torch.cat(halves), rtol=1e-9, atol=0)


def _stepped(cls: type[Optimizer], hyper: Mapping[str, Any], part: slice) -> Tensor:
    theta = torch.linspace(-1, 2, 8, dtype=torch.float64)[part].clone()
    optimizer = cast(Any, cls)([theta], **hyper)
    for step in range(1, 4):
        theta.grad = torch.linspace(0.3, -1, 8, dtype=torch.float64)[part] / step
        optimizer.step()
    return theta
