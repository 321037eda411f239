"""Draws the blueprint of a model."""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from enum import Enum
from types import BuiltinFunctionType, FunctionType, SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from roadtrain.driven.blueprint import (
    Blueprint,
    Items,
    ModuleNumber,
    ModuleSpec,
    Node,
    Number,
    OfTorch,
    Plain,
    Record,
    Table,
    TensorKey,
    TensorSpec,
)
from roadtrain.driven.names import name_of
from roadtrain.errors import UsageError

HINT = "give register_model factory=FUNCTION, a function of the script that makes the model"
OF_MODULE = frozenset(vars(nn.Module())) - {"training", "_non_persistent_buffers_set"}
"""Attributes that every module has, and that it has empty when it is built."""
HOOKS = tuple(name for name in OF_MODULE if "hooks" in name and not name.endswith(("_with_kwargs", "_always_called")))
KINDS: tuple[type, ...] = (list, tuple, set, frozenset, torch.Size)
PLAIN = (bool, int, float, str, type(None))


def draw(model: nn.Module) -> tuple[Blueprint, dict[str, Tensor]]:
    """The blueprint of `model`, and its tensors by key, on the CPU. Raises UsageError that names what cannot travel."""
    drawing = _Drawing()
    drawing.module(model, "the model")
    specs = cast("list[ModuleSpec]", drawing.modules)
    return Blueprint(tuple(specs), drawing.specs), {key: _apart(tensor) for key, tensor in drawing.tensors.items()}


def draw_factory(factory: Callable[[], nn.Module], model: nn.Module) -> tuple[Blueprint, dict[str, Tensor]]:
    """The same where `factory` makes the model. Raises UsageError for a function that workers cannot import."""
    tensors = {name: _apart(tensor) for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    return Blueprint(factory=name_of(factory, "the factory")), tensors


def _apart(tensor: Tensor) -> Tensor:
    """Its values alone, in memory that it shares with no other."""
    return tensor.detach().cpu().contiguous().clone()


class _Drawing:
    def __init__(self) -> None:
        self.modules: list[ModuleSpec | None] = []
        self.specs: dict[str, TensorSpec] = {}
        self.tensors: dict[str, Tensor] = {}
        self._numbers: dict[int, int] = {}
        self._keys: dict[int, str] = {}
        self._within: list[int] = []

    def module(self, module: nn.Module, where: str) -> int:
        """Its number. The same module has the same one."""
        known = self._numbers.get(id(module))
        if known is not None:
            return known
        for hooks in HOOKS:
            if getattr(module, hooks):
                raise UsageError(f"{where} has hooks, which cannot travel", HINT)
        number = self._numbers[id(module)] = len(self.modules)
        self.modules.append(None)
        of = name_of(type(module), f"the class of {where}")
        parameters = {name: self._key(p, f"{where}.{name}") for name, p in module._parameters.items()}
        buffers = {name: self._key(b, f"{where}.{name}") for name, b in module._buffers.items()}
        children = {
            name: None if child is None else self.module(child, f"{where}.{name}")
            for name, child in module._modules.items()
        }
        state = cast("dict[str, Any]", module.__getstate__())
        attributes = {
            name: self.node(value, f"{where}.{name}") for name, value in state.items() if name not in OF_MODULE
        }
        self.modules[number] = ModuleSpec(of, attributes, parameters, buffers, children)
        return number

    def _key(self, tensor: Tensor | None, where: str) -> str | None:
        if tensor is None:
            return None
        known = self._keys.get(id(tensor))
        if known is not None:
            return known
        if tensor.layout is not torch.strided or tensor.is_quantized or type(tensor) not in (Tensor, nn.Parameter):
            raise UsageError(f"{where} is a {type(tensor).__name__} of {tensor.layout}, which cannot travel", HINT)
        key = self._keys[id(tensor)] = where.removeprefix("the model.")
        self.specs[key] = TensorSpec(isinstance(tensor, nn.Parameter), tensor.requires_grad)
        self.tensors[key] = tensor
        return key

    def node(self, value: Any, where: str) -> Node:
        """Any attribute. Raises UsageError for one that is no plain data."""
        if type(value) in PLAIN:
            return Number(repr(value)) if isinstance(value, float) and not math.isfinite(value) else Plain(value)
        if type(value) is complex:
            return Number(repr(value))
        if isinstance(value, Tensor):
            return TensorKey(self._key(value, where) or "")
        if isinstance(value, nn.Module):
            return ModuleNumber(self.module(value, where))
        if isinstance(value, torch.dtype | torch.device | torch.memory_format):
            return OfTorch(type(value).__name__, str(value).removeprefix("torch."))
        if isinstance(value, type | FunctionType | BuiltinFunctionType):
            return name_of(value, where)
        if id(value) in self._within:
            raise UsageError(f"{where} holds itself, which cannot travel", HINT)
        self._within.append(id(value))
        try:
            return self._nested(value, where)
        finally:
            self._within.pop()

    def _nested(self, value: Any, where: str) -> Node:
        if type(value) in KINDS:
            items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
            nodes = tuple(self.node(item, f"{where}[{number}]") for number, item in enumerate(items))
            return Items(type(value).__name__, nodes)
        if type(value) in (dict, OrderedDict):
            table = cast("Mapping[Any, Any]", value)
            keys = tuple(self.node(key, f"a key of {where}") for key in table)
            values = tuple(self.node(item, f"{where}[{key!r}]") for key, item in table.items())
            return Table(keys, values, type(value) is OrderedDict)
        if isinstance(value, Enum):
            return Record(name_of(type(value), where), {"_value_": self.node(value.value, where)})
        if dataclasses.is_dataclass(value) or type(value) is SimpleNamespace:
            of = name_of(type(value), where)
            names = [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else vars(value)
            return Record(of, {name: self.node(getattr(value, name), f"{where}.{name}") for name in names})
        raise UsageError(f"{where} is a {type(value).__name__}, which cannot travel", HINT)
