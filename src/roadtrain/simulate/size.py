"""How many bytes a message takes on the wire, worked out without making it: protobuf fields, chunks, gRPC and HTTP/2 frames.

It mirrors `wire/header.py` and `wire/frame.py`; tests compare the two for every kind of message. Acknowledgements are left out,
there and here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from roadtrain.lease import Leases, WorkState
from roadtrain.message import (
    Envelope,
    Fetch,
    Leave,
    Left,
    Nack,
    Outdated,
    Params,
    Part,
    Pull,
    Push,
    Replicate,
    Replicated,
    Snapshot,
    Stable,
    Trace,
    Traced,
    packets,
)
from roadtrain.view import PeerId
from roadtrain.wire.meter import carried

CHECKSUM_BYTES = 9
DOUBLE_BYTES = 9
REMEMBERED = 4096
"""Senders, kinds of packets (codec, length, sections) and lengths of messages whose sizes are remembered."""
TABLED = 1 << 14
"""Integers below it take three bytes at most, and are looked up."""


def message_bytes(envelope: Envelope, chunk_bytes: int) -> int:
    """Bytes of all frames of a message whose body is sent in chunks of `chunk_bytes`."""
    message = envelope.message
    tag, fields = BODIES[type(message)]
    inner = fields(message)
    header = _stamp(envelope.source, envelope.incarnation, envelope.view) + tag + _varint(inner) + inner
    body = 0
    for packet in packets(message):
        header += _described(packet.codec, packet.dtype, packet.numel, packet.sizes)
        body += packet.nbytes
    return _framed(header, body, chunk_bytes)


@lru_cache(REMEMBERED)
def _framed(header: int, body: int, chunk_bytes: int) -> int:
    """Bytes of all frames of a message: its header goes with the first chunk of the body."""
    begun = _nested(header)
    if body <= chunk_bytes:
        return carried(begun + _chunk(body))
    whole, rest = divmod(body - chunk_bytes, chunk_bytes)
    frames = carried(begun + _chunk(chunk_bytes)) + whole * carried(_chunk(chunk_bytes))
    return frames + (carried(_chunk(rest)) if rest else 0)


@lru_cache(REMEMBERED)
def _stamp(source: str, incarnation: int, view: int) -> int:
    """Sender and checksum."""
    return _text(source) + NUMBER[incarnation] + NUMBER[view] + CHECKSUM_BYTES


def _varint(value: int) -> int:
    return 1 if value < 128 else (value.bit_length() + 6) // 7


class _Numbers(dict[int, int]):
    """Bytes of an integer field by its value, at the price of a look into a table for all but the largest; zero is left out."""

    def __missing__(self, value: int) -> int:
        return 1 + _varint(value)


NUMBER = _Numbers({0: 0} | dict.fromkeys(range(1, 128), 2) | dict.fromkeys(range(128, TABLED), 3))


def _double(value: float) -> int:
    return DOUBLE_BYTES if value else 0


def _text(value: str) -> int:
    return 2 + len(value) if value else 0


@lru_cache(REMEMBERED)
def _described(codec: str, dtype: str, numel: int, sizes: tuple[int, ...]) -> int:
    """A packet's description in the header."""
    packed = sum(_varint(size) for size in sizes)
    return _nested(_text(codec) + _text(dtype) + NUMBER[numel] + 1 + _varint(packed) + packed)


def _chunk(size: int) -> int:
    return _nested(size) if size else 0


# ---------------------------------------------------------------------------------------------------- kinds


def _push(m: Push) -> int:
    numbers = NUMBER[m.fragment] + NUMBER[m.clock] + NUMBER[m.base] + NUMBER[m.steps]
    return numbers + _double(m.weight) + _double(m.speed) + _double(m.lr) + _leases(m.leases)


def _leases(leases: Leases) -> int:
    return sum(_nested(NUMBER[first] + NUMBER[stride] + NUMBER[length]) for first, stride, length in leases)


def _holdings(held: Iterable[tuple[PeerId, Leases]]) -> int:
    return sum(_nested(_text(worker) + _leases(leases)) for worker, leases in held)


def _params(m: Params) -> int:
    numbers = NUMBER[m.fragment] + NUMBER[m.clock] + NUMBER[m.version] + NUMBER[m.staleness] + NUMBER[m.lead]
    work = 0 if m.work is None else _nested(_leases(m.work.leases) + NUMBER[m.work.step] + 2 * m.work.finished)
    return numbers + 2 * m.full + 2 * m.stable + work


def _clocked(m: Pull | Nack) -> int:
    return NUMBER[m.fragment] + NUMBER[m.clock]


def _versioned(m: Stable | Replicated) -> int:
    return NUMBER[m.fragment] + NUMBER[m.version]


def _fetch(m: Fetch) -> int:
    return NUMBER[m.fragment] + NUMBER[m.question]


def _leave(m: Leave) -> int:
    return NUMBER[m.fragment] + NUMBER[m.clock] + NUMBER[m.version] + (9 if m.digest else 0)


def _left(m: Left) -> int:
    numbers = NUMBER[m.fragment] + NUMBER[m.clock] + NUMBER[m.version]
    return numbers + _text(m.furthest) + (0 if m.packet is None else 2)


def _snapshot(m: Snapshot) -> int:
    clocks = sum(_nested(_text(worker) + NUMBER[clock]) for worker, clock in m.clocks)
    names = sum(2 + len(name) for name, _ in m.tensors)
    work = 0 if m.work is None else _nested(_state(m.work))
    return _versioned_numbers(m.fragment, m.version) + NUMBER[m.question] + clocks + names + work


def _state(work: WorkState) -> int:
    packed = sum(_varint(bound) for run in work.done for bound in run)
    runs = _nested(packed) if packed else 0
    last = sum(_nested(_text(worker) + NUMBER[clock] + _leases(leases)) for worker, clock, leases in work.last)
    shares = sum(_nested(_text(worker) + _double(share)) for worker, share in work.shares)
    return (
        NUMBER[work.total] + NUMBER[work.step] + runs + _holdings(work.held) + _holdings(work.counted) + last + shares
    )


def _record(m: Replicate) -> int:
    parts = sum(_nested(_part(part)) for part in m.parts)
    mean = 0 if m.mean is None else 2
    numbers = _versioned_numbers(m.fragment, m.version) + NUMBER[m.after] + NUMBER[m.members]
    work = 0 if m.work is None else _nested(NUMBER[m.work.step] + _holdings(m.work.held) + _leases(m.work.back))
    return numbers + parts + mean + (9 if m.digest else 0) + work


def _part(part: Part) -> int:
    packed = 0 if part.packet is None else 2
    doubles = _double(part.weight) + _double(part.speed) + _double(part.lr)
    return _text(part.worker) + NUMBER[part.clock] + doubles + NUMBER[part.staleness] + packed + _leases(part.leases)


def _trace(m: Trace) -> int:
    return NUMBER[m.fragment] + _text(m.worker)


def _traced(m: Traced) -> int:
    return NUMBER[m.fragment] + _text(m.worker) + NUMBER[m.clock]


def _outdated(m: Outdated) -> int:
    return NUMBER[m.number]


def _versioned_numbers(fragment: int, version: int) -> int:
    return NUMBER[fragment] + NUMBER[version]


def _nested(size: int) -> int:
    return 1 + _varint(size) + size


BODIES: dict[type, tuple[int, Callable[[Any], int]]] = {
    Push: (1, _push),
    Pull: (1, _clocked),
    Fetch: (1, _fetch),
    Leave: (2, _leave),
    Left: (2, _left),
    Params: (1, _params),
    Nack: (1, _clocked),
    Snapshot: (1, _snapshot),
    Replicate: (2, _record),
    Replicated: (2, _versioned),
    Trace: (2, _trace),
    Traced: (2, _traced),
    Outdated: (2, _outdated),
    Stable: (2, _versioned),
}
"""Bytes of the tag of each kind's field in the header, and what its fields take."""
