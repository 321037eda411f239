"""What the driver of a prediction and its workers say to each other, over pipes: never pickled, though both are ours."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import TypeAlias

import msgspec
import torch

from roadtrain.batches.tree import RAW
from roadtrain.codec.packet import Packet, raw_bytes
from roadtrain.errors import PacketError

Wire: TypeAlias = "Connection[bytes, bytes]"


class RowsRequest(msgspec.Struct, frozen=True, array_like=True):
    """The driver asks for the outputs of rows `first` to `first + count`, and calls that `number`."""

    number: int
    first: int
    count: int


class Ready(msgspec.Struct, frozen=True, tag="r", array_like=True):
    """A worker has its model, and sees so many rows."""

    rows: int


class Failed(msgspec.Struct, frozen=True, tag="f", array_like=True):
    """A worker cannot go on, and no other could. `mistake`: it is the person's."""

    message: str
    hint: str
    mistake: bool


class RowsReply(msgspec.Struct, frozen=True, tag="o", array_like=True):
    """Outputs of the request `number`, as `batches/tree.py` describes them; the packets follow, of so many bytes."""

    number: int
    head: bytes
    sizes: tuple[int, ...]


Told: TypeAlias = Ready | Failed | RowsReply
_request = msgspec.msgpack.Decoder(RowsRequest)
_told: msgspec.msgpack.Decoder[Told] = msgspec.msgpack.Decoder(Told)


def ask(pipe: Wire, request: RowsRequest) -> None:
    """Raises OSError where the worker is gone."""
    pipe.send_bytes(msgspec.msgpack.encode(request))


def asked(pipe: Wire) -> RowsRequest:
    """The next request. Raises EOFError or OSError when the driver is gone."""
    return _request.decode(pipe.recv_bytes())


def tell(pipe: Wire, told: Ready | Failed) -> None:
    """Raises OSError where the driver is gone."""
    pipe.send_bytes(msgspec.msgpack.encode(told))


def reply(pipe: Wire, number: int, head: bytes, packets: tuple[Packet, ...]) -> None:
    """Raises OSError where the driver is gone."""
    pipe.send_bytes(msgspec.msgpack.encode(RowsReply(number, head, tuple(packet.nbytes for packet in packets))))
    for packet in packets:
        for part in packet.parts:
            pipe.send_bytes(raw_bytes(part))


def hear(pipe: Wire) -> tuple[Told, tuple[Packet, ...]]:
    """What a worker says next, with the packets of a reply. Raises EOFError or OSError when it is gone, PacketError for anything
    that is none of it."""
    try:
        told = _told.decode(pipe.recv_bytes())
    except msgspec.MsgspecError as error:
        raise PacketError(f"not what a worker of a prediction says: {error}") from None
    return told, tuple(_packet(pipe, size) for size in (told.sizes if isinstance(told, RowsReply) else ()))


def _packet(pipe: Wire, size: int) -> Packet:
    memory = torch.empty(size, dtype=torch.uint8)
    pipe.recv_bytes_into(memory.numpy().data)
    return Packet(RAW, "uint8", size, (memory,))
