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
import zstandard
from torch import Tensor

from roadtrain.batches.work import BadSample, Made
from roadtrain.codec.packet import Packet, raw_bytes
from roadtrain.errors import PacketError, UsageError

RAW, ZSTD = "raw", "zstd"
"""What packets of a batch name as their codec: the memory itself, or that compressed."""
LEVEL = 1
"""Of zstd: the fastest that still finds most."""
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype) and not str(dtype).startswith(("torch.q", "torch.bits", "torch.float4"))
}
"""By name, all whose memory says all that they are."""
DIMENSIONS_MAX = 32
TENSOR_BYTES_MAX = 1 << 31
"""Largest tensor that is made of compressed bytes."""


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


def squeezed(packets: tuple[Packet, ...]) -> tuple[Packet, ...]:
    """The same, compressed, each where it gets smaller by that."""
    return tuple(map(_squeezed, packets))


def _squeezed(packet: Packet) -> Packet:
    if not packet.numel:
        return packet
    made = zstandard.ZstdCompressor(level=LEVEL).compress(raw_bytes(packet.parts[0]))
    if len(made) >= packet.numel:
        return packet
    part = torch.frombuffer(bytearray(made), dtype=torch.uint8)
    return Packet(ZSTD, packet.dtype, packet.numel, (part,))


def same(one: Made, other: Made) -> bool:
    """Whether two makers of a work have made the same, to the bit. Raises UsageError for what cannot travel."""
    (head, packets), (other_head, others) = pack(one), pack(other)
    return head == other_head and all(
        torch.equal(mine.parts[0], theirs.parts[0]) for mine, theirs in zip(packets, others, strict=True)
    )


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
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
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


def _memory(packet: Packet, size: int) -> Tensor:
    """The `size` bytes of a tensor."""
    if packet.codec == ZSTD and len(packet.parts) == 1 and 0 < size <= TENSOR_BYTES_MAX:
        return _unsqueezed(packet.parts[0], size)
    if packet.codec != RAW or packet.nbytes != size or len(packet.parts) != 1:
        raise PacketError(f"a tensor of {packet.nbytes} bytes where {size} are announced")
    return packet.parts[0]


def _unsqueezed(part: Tensor, size: int) -> Tensor:
    """Raises PacketError where it is of another size, before anything larger is made."""
    raw = raw_bytes(part)
    try:
        if zstandard.frame_content_size(raw) != size:
            raise PacketError("a compressed tensor of another size")
        made = zstandard.ZstdDecompressor().decompress(raw, max_output_size=size)
    except zstandard.ZstdError as error:
        raise PacketError(f"not a compressed tensor: {error}") from None
    if len(made) != size:
        raise PacketError("a compressed tensor of another size")
    return torch.frombuffer(bytearray(made), dtype=torch.uint8)


def _array(node: Array, left: list[Packet]) -> Any:
    dtype = DTYPES.get(node.dtype)
    if dtype is None or not left or len(node.shape) > DIMENSIONS_MAX or any(size < 0 for size in node.shape):
        raise PacketError("a tensor that is none")
    part = _memory(left.pop(), math.prod(node.shape) * dtype.itemsize)
    if part.data_ptr() % dtype.itemsize or part.storage_offset() % dtype.itemsize:
        part = part.clone()
    tensor = part.view(dtype).reshape(node.shape)
    return tensor.numpy() if node.is_numpy else tensor
