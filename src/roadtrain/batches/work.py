"""What a batch is made of, and what comes of it, as plain data."""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from roadtrain.errors import PacketError

INDICES_MAX = 1 << 20
"""Most samples of a batch."""


class Work(msgspec.Struct, frozen=True, array_like=True):
    """One batch: the samples of `indices` (int64, little-endian bytes) of the source `source`.

    `draws`: what random draws are seeded by. The same work makes the same batch, whoever does it.
    """

    source: str
    indices: bytes
    draws: int

    @property
    def samples(self) -> int:
        """How many it asks for."""
        return len(self.indices) // 8


def indices_of(work: Work) -> list[int]:
    """Its samples."""
    return [number for (number,) in struct.iter_unpack("<q", work.indices)]


class BadSample(msgspec.Struct, frozen=True, array_like=True):
    """A sample that could not be made: `index`, and the exception in words."""

    index: int
    why: str


class Made(msgspec.Struct, frozen=True):
    """What came of a work. `batch`: tensors, nested as its source likes, of `samples` samples; None where none could be made.
    `by`: the feeder that made it; "" for this process. `nbytes`: of all its tensors, where it has travelled."""

    batch: Any
    samples: int
    bad: tuple[BadSample, ...] = ()
    by: str = ""
    nbytes: int = 0


_decoder = msgspec.msgpack.Decoder(Work)


def encode_work(work: Work) -> bytes:
    """`work` as it travels."""
    return msgspec.msgpack.encode(work)


def decode_work(raw: bytes) -> Work:
    """What has come. Raises PacketError for anything else."""
    try:
        work = _decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PacketError(f"not a batch's work: {error}") from None
    if len(work.indices) % 8 or work.samples > INDICES_MAX:
        raise PacketError(f"a batch of {len(work.indices) / 8:g} samples")
    return work
