"""Messages for the tests of this folder: drawn by hypothesis, compared by value, cut into frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from hypothesis import strategies as st

from roadtrain.codec import Packet, parse, raw_bytes
from roadtrain.lease import Assignment, Lease, WorkRecord, WorkState
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
    Remote,
    Replicate,
    Replicated,
    Snapshot,
    Stable,
    Trace,
    Traced,
)
from roadtrain.wire.frame import Encoder, Frame, decode
from roadtrain.wire.header import header_of

names = st.text(min_size=1, max_size=8)
fragments = st.integers(0, 2**32 - 1)
counts = st.integers(0, 2**63)
weights = st.floats(allow_nan=False)
parts = st.binary(max_size=40).map(lambda raw: torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else EMPTY)
packets = st.builds(Packet, names, names, counts, st.lists(parts, max_size=4).map(tuple))
lease = st.builds(Lease, st.integers(0, 2**40), st.integers(1, 1000), st.integers(1, 1000))
leases = st.lists(lease, max_size=3).map(tuple)
holdings = st.lists(st.tuples(names, leases), max_size=3).map(tuple)
lasts = st.lists(st.tuples(names, counts, leases), max_size=3).map(tuple)
shares = st.lists(st.tuples(names, st.floats(0.01, 100)), max_size=3).map(tuple)
runs = st.sets(st.integers(0, 2**40), max_size=6).map(lambda found: tuple(_pairs(sorted(found))))
contributions = st.builds(Part, names, counts, weights, counts, st.none() | packets, weights, weights, leases)
EMPTY = torch.empty(0, dtype=torch.uint8)


def _pairs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    return zip(numbers[::2], numbers[1::2], strict=False)


KINDS: dict[type[Remote], st.SearchStrategy[Any]] = {
    Push: st.builds(Push, fragments, counts, counts, weights, st.none() | packets, weights, weights, leases, counts),
    Pull: st.builds(Pull, fragments, counts),
    Fetch: st.builds(Fetch, fragments, counts),
    Leave: st.builds(Leave, fragments, counts, counts, st.integers(0, 2**64 - 1)),
    Left: st.builds(Left, fragments, counts, counts, st.just("") | names, st.none() | packets),
    Params: st.builds(
        Params,
        fragments,
        counts,
        counts,
        counts,
        counts,
        st.booleans(),
        st.booleans(),
        packets,
        st.none() | st.builds(Assignment, leases, counts, st.booleans()),
    ),
    Stable: st.builds(Stable, fragments, counts),
    Nack: st.builds(Nack, fragments, counts),
    Snapshot: st.builds(
        Snapshot,
        fragments,
        counts,
        counts,
        st.lists(st.tuples(names, counts), max_size=3).map(tuple),
        st.lists(st.tuples(names, packets), max_size=3).map(tuple),
        st.none() | st.builds(WorkState, counts, counts, runs, holdings, holdings, lasts, shares),
    ),
    Replicate: st.builds(
        Replicate,
        fragments,
        counts,
        counts,
        st.lists(contributions, max_size=3).map(tuple),
        st.none() | packets,
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**31),
        st.none() | st.builds(WorkRecord, counts, holdings, leases),
    ),
    Replicated: st.builds(Replicated, fragments, counts),
    Trace: st.builds(Trace, fragments, names),
    Traced: st.builds(Traced, fragments, names, counts),
    Outdated: st.builds(Outdated, counts),
}
messages = st.one_of(*KINDS.values())
envelopes = st.builds(Envelope, names, st.just("me"), counts, counts, messages)


def plain(value: Any) -> Any:
    """A message as nested plain values, so that two can be compared."""
    if isinstance(value, torch.Tensor):
        return bytes(raw_bytes(value)) if value.numel() else b""
    if dataclasses.is_dataclass(value):
        return type(value), {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        return type(value), {name: plain(item) for name, item in value._asdict().items()}
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def encoded(encoder: Encoder, size: int) -> list[bytes]:
    """All frames, with chunks of at most `size` bytes."""
    made: list[bytes] = []
    while not encoder.done:
        made.append(encoder.frame(size))
    return made


def raw(envelope: Envelope, size: int = 16) -> list[bytes]:
    """An envelope as it is sent: its header and its body, in chunks of at most `size` bytes."""
    return encoded(Encoder(*header_of(envelope)), size)


def frames(envelope: Envelope, size: int = 16) -> Iterator[Frame]:
    """An envelope as it comes in."""
    return map(decode, raw(envelope, size))


def push(clock: int = 1, values: int = 100, fragment: int = 0) -> Push:
    """A contribution of so many float32 values."""
    return Push(fragment, clock, 0, 1.0, parse("none").encode(torch.arange(values, dtype=torch.float32) + clock))


def letter(message: Remote, source: str = "a", to: str = "b") -> Envelope:
    return Envelope(source, to, 1, 1, message)
