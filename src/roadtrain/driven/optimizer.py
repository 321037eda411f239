"""An optimizer as plain data: its class, and for each group the parameters by name and its settings. Its state stays behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec
from torch import Tensor, nn
from torch.optim import Optimizer

from roadtrain.driven.names import Name, name_of, thing_of
from roadtrain.errors import UsageError

Setting = bool | int | float | str | None | tuple[bool | int | float | str | None, ...]


class Group(msgspec.Struct, frozen=True):
    """One parameter group."""

    names: tuple[str, ...]
    settings: dict[str, Setting]


class OptimizerDrawing(msgspec.Struct, frozen=True):
    """An optimizer of class `of`."""

    of: Name
    groups: tuple[Group, ...]


def draw_optimizer(optimizer: Optimizer, model: nn.Module) -> OptimizerDrawing:
    """`optimizer` of parameters of `model`. Raises UsageError for a setting that cannot travel, or a parameter of others."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups: list[Group] = []
    for number, group in enumerate(optimizer.param_groups):
        if not all(id(parameter) in names for parameter in group["params"]):
            raise UsageError("the optimizer has parameters that are not the model's", "make it of model.parameters()")
        settings = {
            key: _plain(value, f"{key} of the optimizer's group {number}")
            for key, value in group.items()
            if key not in ("params", "param_names")
        }
        groups.append(Group(tuple(names[id(parameter)] for parameter in group["params"]), settings))
    return OptimizerDrawing(name_of(type(optimizer), "the optimizer's class"), tuple(groups))


def _plain(value: Any, where: str) -> Setting:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, list | tuple):
        return tuple(cast(Any, _plain(each, where)) for each in cast("tuple[Any, ...]", value))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UsageError(f"{where} is a {type(value).__name__}, which cannot travel", "make it a number")


def build_optimizer(drawing: OptimizerDrawing, model: nn.Module) -> Optimizer:
    """The same over the parameters of `model`. Raises UsageError where its class takes no groups alone."""
    parameters: Mapping[str, nn.Parameter] = dict(model.named_parameters(remove_duplicate=False))
    groups = [{**group.settings, "params": [parameters[name] for name in group.names]} for group in drawing.groups]
    cls = thing_of(drawing.of)
    try:
        return cls(groups)
    except TypeError as error:
        hint = "give its arguments defaults, or take one of torch.optim"
        raise UsageError(f"{drawing.of.qualname} cannot be made of its parameter groups: {error}", hint) from error
