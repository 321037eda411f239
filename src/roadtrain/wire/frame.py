"""The frames that a message crosses a stream in: `pb.Frame`, written and read by hand.

protobuf would copy a chunk three times on its way out and twice on its way in; here it is copied once, when frames are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from roadtrain.errors import PacketError
from roadtrain.wire import roadtrain_pb2 as pb

HEADER_TAG, CHUNK_TAG, TAKEN_TAG = 0x0A, 0x12, 0x18
"""How protobuf announces the fields of a Frame: twice a length and so many bytes, and a varint."""


class Frame(NamedTuple):
    """`pb.Frame`, its chunk a view of the bytes that came. `size`: bytes of it without `taken`; 0 of an acknowledgement alone."""

    header: pb.Header | None
    chunk: memoryview
    taken: int | None
    size: int


class Encoder:
    """A message on its way into frames: the first has the header, each a piece of the body, whose parts are not copied before."""

    def __init__(self, header: pb.Header, parts: Sequence[memoryview]) -> None:
        head = header.SerializeToString()
        self._begun = _field(HEADER_TAG, len(head)) + head
        self._parts = parts
        self._part, self._at = 0, 0
        self._left = sum(map(len, parts))

    @property
    def done(self) -> bool:
        """Whether all frames have been made."""
        return not self._begun and not self._left

    def frame(self, size: int, ahead: bytes = b"") -> bytes:
        """The next frame, with at most `size` bytes of the body. `ahead`: an acknowledgement that it begins with."""
        chunk = self._chunk(min(size, self._left))
        begun, self._begun = self._begun, b""
        return b"".join((ahead, begun, *((_field(CHUNK_TAG, sum(map(len, chunk))), *chunk) if chunk else ())))

    def _chunk(self, size: int) -> list[memoryview]:
        """The next `size` bytes of the body: what is taken of one part after the other."""
        chunk: list[memoryview] = []
        self._left -= size
        while size:
            piece = self._parts[self._part][self._at : self._at + size]
            size -= len(piece)
            self._at += len(piece)
            if self._at == len(self._parts[self._part]):
                self._part, self._at = self._part + 1, 0
            chunk.append(piece)
        return chunk


def acknowledgement(taken: int) -> bytes:
    """A frame that says how many bytes were taken in, or the beginning of one."""
    return _field(TAKEN_TAG, taken)


def decode(raw: bytes) -> Frame:
    """The frame in a gRPC message, its chunk not copied. Raises PacketError, and DecodeError for its header."""
    view = memoryview(raw)
    header, chunk, taken, size = None, view[:0], None, len(raw)
    at = 0
    while at < len(raw):
        tag, begin = raw[at], at
        value, at = _read_varint(raw, at + 1)
        if tag == TAKEN_TAG:
            taken, size = value, size - (at - begin)
            continue
        if tag not in (HEADER_TAG, CHUNK_TAG) or value > len(raw) - at:
            raise PacketError("a frame that is none")
        field = view[at : at + value]
        at += value
        if tag == HEADER_TAG:
            header = pb.Header.FromString(bytes(field))
        else:
            chunk = field
    return Frame(header, chunk, taken, size)


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
