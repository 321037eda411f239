"""A model as plain data: what its modules are made of, by name. Its tensors travel beside it, as safetensors.

Modules and tensors have numbers and keys, so that those that are shared stay shared.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from roadtrain.driven.names import Name


class Plain(msgspec.Struct, frozen=True, tag="plain"):
    """A value as it is."""

    value: bool | int | float | str | None


class Number(msgspec.Struct, frozen=True, tag="number"):
    """A number that JSON has no word for: inf, -inf, nan, or a complex one."""

    text: str


class Items(msgspec.Struct, frozen=True, tag="items"):
    """A `kind` of items: list, tuple, set, frozenset or torch.Size."""

    kind: str
    items: tuple[Node, ...]


class Table(msgspec.Struct, frozen=True, tag="table"):
    """A dict; `ordered`: an OrderedDict."""

    keys: tuple[Node, ...]
    values: tuple[Node, ...]
    ordered: bool = False


class OfTorch(msgspec.Struct, frozen=True, tag="torch"):
    """A `kind` of torch's: dtype, device or memory_format."""

    kind: str
    text: str


class TensorKey(msgspec.Struct, frozen=True, tag="tensor"):
    """The tensor under a key."""

    key: str


class ModuleNumber(msgspec.Struct, frozen=True, tag="module"):
    """One of the blueprint's modules."""

    number: int


class Record(msgspec.Struct, frozen=True, tag="record"):
    """A dataclass, a SimpleNamespace or a member of an Enum, by its attributes."""

    of: Name
    attributes: dict[str, Node]


Node: TypeAlias = Plain | Number | Items | Table | OfTorch | TensorKey | ModuleNumber | Record | Name


class TensorSpec(msgspec.Struct, frozen=True):
    """What a key's tensor is besides its values."""

    parameter: bool
    requires_grad: bool


class ModuleSpec(msgspec.Struct, frozen=True):
    """One module: its class, what it registered by name (None: as None), and its other attributes."""

    of: Name
    attributes: dict[str, Node]
    parameters: dict[str, str | None]
    buffers: dict[str, str | None]
    modules: dict[str, int | None]


class Blueprint(msgspec.Struct, frozen=True):
    """A model: its modules, the first of which is it; its tensors by key. `factory`: makes it instead, and the tensors are what
    its state dict has."""

    modules: tuple[ModuleSpec, ...] = ()
    tensors: dict[str, TensorSpec] = {}
    factory: Name | None = None
