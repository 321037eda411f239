"""Where a model repeats itself: the blocks that are sharded one by one, and along which a pipeline is cut."""

from __future__ import annotations

from torch import nn

from roadtrain.errors import UsageError


def repeated(model: nn.Module) -> list[list[str]]:
    """The names of repeated modules, list by list: what lies in a ModuleList or Sequential of modules of one class."""
    found: list[list[str]] = []
    _look(model, "", found)
    return found


def _look(module: nn.Module, name: str, found: list[list[str]]) -> None:
    children = [(f"{name}.{key}" if name else key, child) for key, child in module.named_children()]
    kinds = {type(child) for _, child in children}
    if isinstance(module, nn.ModuleList | nn.Sequential) and len(children) > 1 and len(kinds) == 1:
        if _numel(module):
            found.append([key for key, _ in children])
        return
    for key, child in children:
        _look(child, key, found)


def units(model: nn.Module) -> list[str]:
    """The modules that are gathered and freed one by one when parameters are sharded."""
    return [name for names in repeated(model) for name in names] or (
        [name for name, child in model.named_children() if _numel(child)] if isinstance(model, nn.Sequential) else []
    )


def chain(model: nn.Module) -> list[str]:
    """The modules, one after the other, that most of the model lies in. Raises UsageError where there are none."""
    lists = repeated(model)
    if lists:
        return max(lists, key=lambda names: sum(_numel(model.get_submodule(name)) for name in names))
    if isinstance(model, nn.Sequential):
        return [name for name, _ in model.named_children()]
    raise UsageError(
        f"{type(model).__name__} has no blocks to split: no ModuleList or Sequential of several modules of one class",
        "give it several layers in one, or choose a layout without pp, mp and tp, such as fsdp:2",
    )


def _numel(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
