"""The frames that a message crosses a stream in: `pb.Frame`, written and read by hand.

protobuf would copy a chunk three times on its way out and twice on its way in; here it is copied once, when frames are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from roadtrain.errors import PacketError
from roadtrain.wire import roadtrain_pb2 as pb

ID_TAG, HEADER_TAG, CHUNK_TAG = 0x08, 0x12, 0x1A
"""How protobuf announces the fields of a Frame: a varint, and twice a length and so many bytes."""


class Frame(NamedTuple):
    """`pb.Frame`, its chunk a view of the bytes that came."""

    id: int
    header: pb.Header | None
    chunk: memoryview


def encode(number: int, header: pb.Header, parts: Sequence[memoryview], chunk_bytes: int) -> Iterator[bytes]:
    """The frames of a message: the first has the header, each but the last `chunk_bytes` bytes of the body."""
    head = header.SerializeToString()
    begun = _field(HEADER_TAG, len(head)) + head
    for chunk in _chunks(parts, chunk_bytes):
        yield _frame(number, begun, chunk)
        begun = b""
    if begun:
        yield _frame(number, begun, [])


def _chunks(parts: Sequence[memoryview], size: int) -> Iterator[list[memoryview]]:
    """The body in chunks of `size` bytes, not copied: each a list of what it takes from one part after the other."""
    chunk: list[memoryview] = []
    room = size
    for part in parts:
        begin = 0
        while begin < len(part):
            piece = part[begin : begin + room]
            chunk.append(piece)
            begin += len(piece)
            room -= len(piece)
            if not room:
                yield chunk
                chunk, room = [], size
    if chunk:
        yield chunk


def _frame(number: int, header: bytes, chunk: Sequence[memoryview]) -> bytes:
    """A serialized `pb.Frame`."""
    announced = _field(CHUNK_TAG, sum(map(len, chunk))) if chunk else b""
    return b"".join((_field(ID_TAG, number), header, announced, *chunk))


def decode(raw: bytes) -> Frame:
    """The frame in a gRPC message, its chunk not copied. Raises PacketError, and DecodeError for its header."""
    view = memoryview(raw)
    number, header, chunk = 0, None, view[:0]
    at = 0
    while at < len(raw):
        tag = raw[at]
        value, at = _read_varint(raw, at + 1)
        if tag == ID_TAG:
            number = value
            continue
        if tag not in (HEADER_TAG, CHUNK_TAG) or value > len(raw) - at:
            raise PacketError("a frame that is none")
        field = view[at : at + value]
        at += value
        if tag == HEADER_TAG:
            header = pb.Header.FromString(bytes(field))
        else:
            chunk = field
    return Frame(number, header, chunk)


def _field(tag: int, value: int) -> bytes:
    """A tag and a varint: seven bits a byte, lowest first; all but the last have the high bit set."""
    out = bytearray((tag,))
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    """A varint's value, and where it ends. Raises PacketError when it does not end, or not within 64 bits."""
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(raw):
            break
        value |= (raw[at] & 0x7F) << shift
        at += 1
        if raw[at - 1] < 0x80:
            return value, at
    raise PacketError("a frame that is none")
