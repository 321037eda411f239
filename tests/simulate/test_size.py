"""What a message is said to take, against the frames that the wire makes of it."""

from __future__ import annotations

import pytest
import torch

from roadtrain.codec import Packet
from roadtrain.codec import parse as codec
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
from roadtrain.simulate.size import BODIES, message_bytes
from roadtrain.wire.frame import Encoder
from roadtrain.wire.header import header_of
from roadtrain.wire.meter import carried


def packet(spec: str, numel: int, dtype: torch.dtype = torch.float32) -> Packet:
    return codec(spec).encode(torch.randn(numel, generator=torch.Generator().manual_seed(3), dtype=dtype))


def framed(envelope: Envelope, chunk_bytes: int) -> int:
    """Bytes of the frames that the wire sends."""
    encoder, size = Encoder(*header_of(envelope)), 0
    while not encoder.done:
        size += carried(len(encoder.frame(chunk_bytes)))
    return size


PARTS = (
    Part("w0", 4, 8.0, 0, packet("int8", 700)),
    Part("w1", 4, 8.0, 3, None),
    Part("w200", 4, 0.0, 0, packet("int8", 700)),
)
HELD = (("w0", (Lease(300, 3, 50), Lease(70_000, 1, 1))), ("w1", ()))
WORK = WorkState(90_000, 129, ((0, 100), (300, 70_000)), HELD, HELD, (("w2", 200, (Lease(5, 1, 1),)),), (("w0", 1.5),))
MESSAGES: list[Remote] = [
    Push(0, 1, 0, 32.0, packet("none", 10)),
    Push(3, 20_000, 19_999, 32.0, packet("int4", 100_000)),
    Push(1, 5, 4, 0.0, None),
    Push(1, 5, 4, 1.0, packet("topk:0.01+int8", 50_000)),
    Pull(2, 129),
    Fetch(0, 0),
    Params(0, 1, 1, 0, 0, True, False, packet("none", 9, torch.float64)),
    Params(130, 16_384, 127, 128, 1, False, True, packet("onebit", 70_000)),
    Stable(0, 128),
    Nack(5, 1),
    Leave(5, 300, 299, 0),
    Leave(0, 1, 1, 2**63),
    Left(5, 300, 299, "", None),
    Left(5, 300, 299, "w12", packet("none", 700)),
    Snapshot(2, 0, 9, (("w0", 9), ("w1", 0)), (("theta", packet("none", 4000)), ("rule.step", packet("none", 1)))),
    Replicate(0, 4, 3, PARTS, None, 2**63 + 5),
    Replicate(9, 200, 199, (PARTS[1],) * 1000, packet("none", 500), 17),
    Replicated(4, 4),
    Push(0, 4, 3, 32.0, packet("none", 10), leases=(Lease(0, 3, 50), Lease(20_000, 1, 1)), steps=50),
    Params(0, 1, 1, 0, 0, True, False, packet("none", 9), Assignment((Lease(9, 3, 400),), 20, True)),
    Params(0, 1, 1, 0, 0, True, False, packet("none", 9), Assignment()),
    Snapshot(0, 0, 9, (("w0", 9),), (("theta", packet("none", 40)),), WORK),
    Replicate(
        0, 4, 3, (PARTS[0]._replace(leases=WORK.held[0][1]),), None, 1, 0, WorkRecord(7, WORK.held, (Lease(1, 1, 1),))
    ),
    Trace(3, "w12"),
    Traced(3, "w12", 300),
    Outdated(300),
]


@pytest.mark.parametrize("chunk_bytes", [4096, 62_500, 256 * 1024])
@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_takes_what_the_wire_makes_of_it(message: Remote, chunk_bytes: int) -> None:
    for source, incarnation, view in (("w0", 1, 1), ("w999", 1000, 140)):
        envelope = Envelope(source, "w1", incarnation, view, message)
        assert message_bytes(envelope, chunk_bytes) == framed(envelope, chunk_bytes)


def test_every_kind_of_message_is_measured() -> None:
    assert {type(message) for message in MESSAGES} == set(BODIES) == set(Remote.__args__)
