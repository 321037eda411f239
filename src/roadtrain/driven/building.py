"""Builds a model from its blueprint: its classes are imported, and nothing of theirs is run but what a copy of it would run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from enum import Enum
from types import SimpleNamespace
from typing import Any, assert_never

import torch
from torch import Tensor, nn

from roadtrain.driven.blueprint import (
    Blueprint,
    Items,
    ModuleNumber,
    Node,
    Number,
    OfTorch,
    Plain,
    Record,
    Table,
    TensorKey,
)
from roadtrain.driven.names import Name, thing_of
from roadtrain.errors import UsageError

KINDS = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "Size": torch.Size}


def build_from(blueprint: Blueprint, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The model, with these tensors. Raises UsageError for a class that cannot be imported, or is another one here."""
    if blueprint.factory is not None:
        return _manufactured(blueprint.factory, tensors)
    return _Building(blueprint, tensors).model()


def _manufactured(factory: Name, tensors: Mapping[str, Tensor]) -> nn.Module:
    model = thing_of(factory)()
    if not isinstance(model, nn.Module):
        raise UsageError(f"the factory {factory.qualname} made a {type(model).__name__}", "have it return the model")
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise UsageError(f"the factory {factory.qualname} makes another model: {said}") from error
    return model


class _Building:
    def __init__(self, blueprint: Blueprint, tensors: Mapping[str, Tensor]) -> None:
        self._blueprint = blueprint
        self._tensors = {
            key: nn.Parameter(tensors[key], spec.requires_grad)
            if spec.parameter
            else tensors[key].requires_grad_(spec.requires_grad)
            for key, spec in blueprint.tensors.items()
        }
        self._modules: list[nn.Module] = [self._empty(spec.of) for spec in blueprint.modules]

    def _empty(self, name: Name) -> nn.Module:
        cls = thing_of(name)
        if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
            raise UsageError(f"{name.qualname} of {name.module} is no module here", "is it the same version?")
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        return module

    def model(self) -> nn.Module:
        """The first module, with all that is in it."""
        for module, spec in zip(self._modules, self._blueprint.modules, strict=True):
            module._parameters.update({name: self._of(key) for name, key in spec.parameters.items()})  # pyright: ignore[reportArgumentType, reportCallIssue]
            module._buffers.update({name: self._of(key) for name, key in spec.buffers.items()})
            module._modules.update(
                {name: None if number is None else self._modules[number] for name, number in spec.modules.items()}
            )
        for module, spec in zip(self._modules, self._blueprint.modules, strict=True):
            attributes = {name: self._value(node) for name, node in spec.attributes.items()}
            module.__setstate__({**vars(module), **attributes})
        return self._modules[0]

    def _of(self, key: str | None) -> Tensor | None:
        return None if key is None else self._tensors[key]

    def _value(self, node: Node) -> Any:
        match node:
            case Plain(value):
                return value
            case Number(text):
                return complex(text) if "j" in text else float(text)
            case Items(kind, items):
                return KINDS[kind](self._value(item) for item in items)
            case Table(keys, values, ordered):
                pairs = zip(map(self._value, keys), map(self._value, values), strict=True)
                return OrderedDict(pairs) if ordered else dict(pairs)
            case OfTorch(kind, text):
                return torch.device(text) if kind == "device" else getattr(torch, text)
            case TensorKey(key):
                return self._tensors[key]
            case ModuleNumber(number):
                return self._modules[number]
            case Record(of, attributes):
                return self._record(of, attributes)
            case Name():
                return thing_of(node)
            case _:
                assert_never(node)

    def _record(self, of: Name, attributes: Mapping[str, Node]) -> Any:
        cls, values = thing_of(of), {name: self._value(node) for name, node in attributes.items()}
        if issubclass(cls, Enum):
            return cls(values["_value_"])
        if cls is SimpleNamespace:
            return SimpleNamespace(**values)
        made = cls.__new__(cls)
        for name, value in values.items():
            object.__setattr__(made, name, value)
        return made
