"""Frames to messages: all that went in comes out, and nothing else comes in."""

from __future__ import annotations

import contextlib
from typing import get_args

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from letters import KINDS, envelopes, frames, letter, plain, push, raw

from roadtrain.errors import PacketError
from roadtrain.message import Envelope, Pull, Remote, Stable
from roadtrain.wire.assembler import Assembler
from roadtrain.wire.frame import Frame, decode
from roadtrain.wire.header import body_bytes, header_of
from roadtrain.wire.meter import Meter

LIMIT = 1 << 20
NOTHING = memoryview(b"")


def assembler(source: str = "a", limit: int = LIMIT, meter: Meter | None = None) -> Assembler:
    return Assembler("me", source, limit, meter or Meter())


def assembled(parts: list[Frame], source: str = "a", limit: int = LIMIT) -> list[Envelope]:
    made = assembler(source, limit)
    return [envelope for part in parts if (envelope := made.add(part, 0.0)) is not None]


def headed(frame: Frame, chunk: bytes = b"") -> Frame:
    return Frame(frame.header, memoryview(chunk), None, 1)


# --------------------------------------------------------------------------------------------------- round trip


def test_every_remote_message_is_drawn() -> None:
    assert set(KINDS) == set(get_args(Remote))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=40, deadline=None)
@given(data=st.data(), size=st.integers(1, 50))
def test_a_message_comes_out_as_it_went_in(kind: type[Remote], data: st.DataObject, size: int) -> None:
    envelope = Envelope("somebody", "me", 7, 8, data.draw(KINDS[kind]))
    sent = list(frames(envelope, size=size))
    assert all(len(frame.chunk) <= size for frame in sent)
    (received,) = assembled(sent, "somebody")
    assert plain(received) == plain(envelope)


@settings(max_examples=60, deadline=None)
@given(envelopes, st.data())
def test_messages_of_one_frame_may_come_amid_another(envelope: Envelope, data: st.DataObject) -> None:
    sent = list(frames(envelope))
    small = letter(Stable(3, 4), envelope.source)
    at = data.draw(st.integers(0, len(sent)))
    received = assembled([*sent[:at], *frames(small), *sent[at:]], envelope.source)
    wanted = [envelope, plain_destination(small)] if at == len(sent) else [plain_destination(small), envelope]
    assert [plain(e.message) for e in received] == [plain(e.message) for e in wanted]


def plain_destination(envelope: Envelope) -> Envelope:
    return envelope._replace(destination="me")


# ------------------------------------------------------------------------------------------------------- limits


def test_a_body_over_the_limit_is_refused_before_it_is_allocated() -> None:
    header, _ = header_of(letter(push()))
    assert body_bytes(header, 400) == 400
    with pytest.raises(PacketError, match="400 bytes where at most 399"):
        body_bytes(header, 399)
    # Were it allocated first, this would be a MemoryError.
    header.packets[0].sizes[0] = 2**63
    with pytest.raises(PacketError, match="at most"):
        assembled([Frame(header, NOTHING, None, 1)])
    header.packets[0].sizes[:] = [2**63, 2**63]  # their sum is 0 in 64 bits
    with pytest.raises(PacketError, match="at most"):
        assembled([Frame(header, NOTHING, None, 1)])


def test_a_body_longer_than_announced_is_refused() -> None:
    head, last = frames(letter(push(values=8)))
    with pytest.raises(PacketError, match="longer than announced"):
        assembled([head, last._replace(chunk=memoryview(bytes(last.chunk) + b"x"))])
    with pytest.raises(PacketError, match="longer than announced"):
        assembled([headed(head, bytes(33))])


def test_one_message_at_a_time_is_begun() -> None:
    one, other = (next(frames(letter(push(clock=n)))) for n in (1, 2))
    with pytest.raises(PacketError, match="begun amid another"):
        assembled([one, other])


def test_a_chunk_of_no_message_is_refused() -> None:
    chunk = Frame(None, memoryview(b"x"), None, 1)
    for before in ([], list(frames(letter(Pull(0, 1)))), list(frames(letter(push())))):
        with pytest.raises(PacketError, match="no known message"):
            assembled([*before, chunk])


def test_a_stream_speaks_for_one_peer() -> None:
    """Whoever opens it cannot have another worker's contributions refused, or its rounds closed."""
    made = assembler("w1")
    mine, foreign = (letter(push(8))._replace(source=name) for name in ("w1", "w2"))
    for frame in frames(mine, size=8):
        made.add(frame, 0.0)
    with pytest.raises(PacketError, match="a stream of w1 speaks for w2"):
        made.add(next(iter(frames(foreign, size=8))), 0.0)


def test_the_time_of_a_message_is_from_its_first_frame_to_its_last() -> None:
    meter = Meter()
    made = assembler(meter=meter)
    first, *rest = frames(letter(push(8)), size=8)
    made.add(first, 10.0)
    for number, frame in enumerate(rest, start=1):
        made.add(frame, 10.0 + number)
    assert meter.receiving_s == len(rest) > 1
    assert meter.receiving_bytes == sum(len(frame.chunk) for frame in rest)


# -------------------------------------------------------------------------------------------------- corruption


def damaged(raw: bytes, data: st.DataObject) -> bytes:
    """Some bytes of a frame changed, cut off or put in."""
    out = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(out)))
        match data.draw(st.sampled_from(("flip", "drop", "put"))):
            case "flip" if at < len(out):
                out[at] ^= 1 << data.draw(st.integers(0, 7))
            case "drop":
                del out[at : at + data.draw(st.integers(1, 8))]
            case _:
                out[at:at] = data.draw(st.binary(max_size=8))
    return bytes(out)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(envelope=envelopes, data=st.data())
def test_damaged_frames_raise_nothing_but_what_a_stream_expects(envelope: Envelope, data: st.DataObject) -> None:
    made = assembler(envelope.source)
    for frame in raw(envelope):
        with contextlib.suppress(PacketError, ValueError, DecodeError):
            made.add(decode(damaged(frame, data)), 0.0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=4))
def test_noise_raises_nothing_but_what_a_stream_expects(noise: list[bytes]) -> None:
    made = assembler()
    for frame in noise:
        with contextlib.suppress(PacketError, ValueError, DecodeError):
            made.add(decode(frame), 0.0)
