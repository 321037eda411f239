"""A batch as bytes: a description of how it is nested, and the memory of its tensors as it is.

Tensors keep their dtypes and shapes. Beside them a batch may hold numbers, texts, bytes and numpy arrays, in tuples, lists and
tables. Nothing else travels: who unpickles bytes runs them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias, cast

import msgspec
import numpy
import torch
from torch import Tensor

from roadtrain.codec.packet import Packet
from roadtrain.errors import PacketError, UsageError
from roadtrain.feed.work import BadSample, Made

RAW = "raw"
"""What packets of a batch name as their codec: the memory itself."""
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype) and not str(dtype).startswith(("torch.q", "torch.bits", "torch.float4"))
}
"""By name, all whose memory says all that they are."""
DIMENSIONS_MAX = 32


class Array(msgspec.Struct, frozen=True, tag="a", array_like=True):
    """The next packet, as a tensor; `is_numpy`: as an array of that."""

    dtype: str
    shape: tuple[int, ...]
    is_numpy: bool = False


class Items(msgspec.Struct, frozen=True, tag="l", array_like=True):
    """A list, or a tuple."""

    items: tuple[Node, ...]
    is_tuple: bool


class Table(msgspec.Struct, frozen=True, tag="d", array_like=True):
    """A table by name or number."""

    keys: tuple[str | int, ...]
    values: tuple[Node, ...]


class Plain(msgspec.Struct, frozen=True, tag="p", array_like=True):
    """A value as it is."""

    value: bool | int | float | str | None


class Blob(msgspec.Struct, frozen=True, tag="b", array_like=True):
    """Bytes as they are."""

    value: bytes


Node: TypeAlias = Array | Items | Table | Plain | Blob


class Head(msgspec.Struct, frozen=True, array_like=True):
    """Of a reply: how the batch is made. `root` None: there is no sample in it. `failed`: why there is no batch at all."""

    root: Node | None
    samples: int
    bad: tuple[BadSample, ...] = ()
    failed: str = ""


_decoder = msgspec.msgpack.Decoder(Head)


def pack(made: Made) -> tuple[bytes, tuple[Packet, ...]]:
    """`made` as it travels; its tensors' memory is not copied. Raises UsageError for what cannot travel, and names it."""
    packets: list[Packet] = []
    root = None if made.batch is None else _describe(made.batch, packets, "the batch")
    return msgspec.msgpack.encode(Head(root, made.samples, made.bad)), tuple(packets)


def pack_failure(why: str) -> bytes:
    """The head of a reply without a batch."""
    return msgspec.msgpack.encode(Head(None, 0, failed=why))


def _describe(value: Any, packets: list[Packet], where: str) -> Node:
    if isinstance(value, Tensor):
        packets.append(_packet(value, where))
        return Array(str(value.dtype).removeprefix("torch."), tuple(value.shape))
    if isinstance(value, numpy.ndarray | numpy.generic):
        tensor = _tensor_of(value, where)
        packets.append(_packet(tensor, where))
        return Array(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), is_numpy=True)
    if isinstance(value, Mapping):
        table = cast("Mapping[Any, Any]", value)
        keys = tuple(table)
        if not all(isinstance(key, str | int) for key in keys):
            raise UsageError(f"{where} has keys that are no texts or numbers, and cannot travel", "name them by texts")
        return Table(keys, tuple(_describe(item, packets, f"{where}[{key!r}]") for key, item in table.items()))
    if type(value) in (list, tuple):
        items = cast("list[Any] | tuple[Any, ...]", value)
        nodes = tuple(_describe(item, packets, f"{where}[{number}]") for number, item in enumerate(items))
        return Items(nodes, isinstance(value, tuple))
    if isinstance(value, bytes):
        return Blob(value)
    if value is None or isinstance(value, bool | int | float | str):
        return Plain(value)
    hint = "make it of tensors, numbers, texts, lists, tuples and dicts in the dataset or the collate function"
    raise UsageError(f"{where} is a {type(value).__name__}, which cannot travel from a feeder", hint)


def _tensor_of(value: Any, where: str) -> Tensor:
    try:
        return torch.from_numpy(numpy.require(value, requirements=["C", "W"]).reshape(numpy.shape(value)))
    except TypeError:
        raise UsageError(f"{where} is an array of {value.dtype}, which cannot travel", "make it of numbers") from None


def _packet(tensor: Tensor, where: str) -> Packet:
    if str(tensor.dtype).removeprefix("torch.") not in DTYPES or tensor.layout is not torch.strided:
        raise UsageError(f"{where} is a {tensor.layout} tensor of {tensor.dtype}, which cannot travel", "make it dense")
    flat = tensor.detach().cpu().contiguous()
    flat = flat.as_strided((flat.numel(),), (1,))  # a single number may have any stride
    flat = flat.view(torch.uint8) if flat.numel() else torch.empty(0, dtype=torch.uint8)
    return Packet(RAW, "uint8", flat.numel(), (flat,))


def unpack(head: bytes, packets: tuple[Packet, ...], by: str) -> Made:
    """What has come from the feeder `by`; tensors are views of what was received. Raises PacketError where the parts do not fit
    each other, or it says that it has failed."""
    try:
        said = _decoder.decode(head)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PacketError(f"not a batch: {error}") from None
    if said.failed:
        raise PacketError(said.failed)
    left = list(reversed(packets))
    batch = None if said.root is None else _build(said.root, left)
    if left or said.samples < 0 or (said.root is None) != (said.samples == 0):
        raise PacketError("a batch whose parts do not fit")
    return Made(batch, said.samples, said.bad, by, sum(packet.nbytes for packet in packets))


def _build(node: Node, left: list[Packet]) -> Any:
    match node:
        case Array():
            return _array(node, left)
        case Items(items, is_tuple):
            built = [_build(item, left) for item in items]
            return tuple(built) if is_tuple else built
        case Table(keys, values):
            if len(keys) != len(values):
                raise PacketError("a table without all of its values")
            return {key: _build(value, left) for key, value in zip(keys, values, strict=True)}
        case Plain(value) | Blob(value):
            return value


def _array(node: Array, left: list[Packet]) -> Any:
    dtype = DTYPES.get(node.dtype)
    if dtype is None or not left or len(node.shape) > DIMENSIONS_MAX or any(size < 0 for size in node.shape):
        raise PacketError("a tensor that is none")
    packet = left.pop()
    if packet.codec != RAW or packet.nbytes != math.prod(node.shape) * dtype.itemsize or len(packet.parts) != 1:
        raise PacketError(f"a tensor of {packet.nbytes} bytes that is {node.dtype} {list(node.shape)}")
    (part,) = packet.parts
    if part.data_ptr() % dtype.itemsize or part.storage_offset() % dtype.itemsize:
        part = part.clone()
    tensor = part.view(dtype).reshape(node.shape)
    return tensor.numpy() if node.is_numpy else tensor
