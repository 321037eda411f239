from __future__ import annotations

import contextlib
from typing import Any, get_args

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from letters import KINDS, envelopes, frames, letter, plain, push, raw

from roadtrain.errors import PacketError
from roadtrain.message import Envelope, Pull, Remote
from roadtrain.wire import roadtrain_pb2 as pb
from roadtrain.wire.frame import Frame, decode, encode
from roadtrain.wire.header import body_bytes, header_of
from roadtrain.wire.meter import Meter
from roadtrain.wire.server import ASSEMBLIES_MAX, Assembler

LIMIT = 1 << 20
NOTHING = memoryview(b"")


def assembled(parts: list[Frame], limit: int = LIMIT) -> list[Envelope]:
    assembler = Assembler("me", limit, Meter())
    return [envelope for part in parts if (envelope := assembler.add(part, 0.0)) is not None]


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
    (received,) = assembled(sent)
    assert plain(received) == plain(envelope)


@settings(max_examples=60, deadline=None)
@given(st.lists(envelopes, min_size=2, max_size=ASSEMBLIES_MAX), st.randoms(use_true_random=False))
def test_messages_may_interleave(letters: list[Envelope], random: Any) -> None:
    letters = [envelope._replace(source=letters[0].source) for envelope in letters]
    streams = [list(frames(envelope, number)) for number, envelope in enumerate(letters, start=1)]
    assembler = Assembler("me", LIMIT, Meter())
    received: dict[int, Envelope] = {}
    while any(streams):
        stream = random.choice([stream for stream in streams if stream])
        frame = stream.pop(0)
        envelope = assembler.add(frame, 0.0)
        if envelope is not None:
            received[frame.id] = envelope
    assert [plain(received[n]) for n in sorted(received)] == [plain(envelope) for envelope in letters]


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=4), st.integers(1, 50))
def test_chunks_are_full_whatever_the_parts_of_the_body(parts: list[bytes], size: int) -> None:
    sent = [decode(frame).chunk for frame in encode(1, pb.Header(), [memoryview(part) for part in parts], size)]
    assert b"".join(sent) == b"".join(parts)
    assert all(len(chunk) == size for chunk in sent[:-1])
    assert len(sent) == max(1, -(-sum(map(len, parts)) // size))


@given(st.integers(1, 2**64 - 1), envelopes, st.integers(1, 300))
def test_frames_are_what_protobuf_makes_of_them(number: int, envelope: Envelope, size: int) -> None:
    header, parts = header_of(envelope)
    for position, frame in enumerate(encode(number, header, parts, size)):
        made = pb.Frame.FromString(frame)
        assert made.HasField("header") == (position == 0)
        assert made.SerializeToString() == frame
        assert decode(frame) == (made.id, made.header if position == 0 else None, made.chunk)


# ------------------------------------------------------------------------------------------------------- limits


def test_a_body_over_the_limit_is_refused_before_it_is_allocated() -> None:
    header, _ = header_of(letter(push()))
    assert body_bytes(header, 400) == 400
    with pytest.raises(PacketError, match="400 bytes where at most 399"):
        body_bytes(header, 399)
    # Were it allocated first, this would be a MemoryError.
    header.packets[0].sizes[0] = 2**63
    with pytest.raises(PacketError, match="at most"):
        assembled([Frame(1, header, NOTHING)])
    header.packets[0].sizes[:] = [2**63, 2**63]  # their sum is 0 in 64 bits
    with pytest.raises(PacketError, match="at most"):
        assembled([Frame(1, header, NOTHING)])


def test_a_body_longer_than_announced_is_refused() -> None:
    head, last = frames(letter(push(values=8)))
    with pytest.raises(PacketError, match="longer than announced"):
        assembled([head, Frame(1, None, memoryview(bytes(last.chunk) + b"x"))])
    with pytest.raises(PacketError, match="longer than announced"):
        assembled([Frame(1, head.header, memoryview(bytes(33)))])


def test_a_stream_begins_only_so_many_messages_at_once() -> None:
    heads = [next(frames(letter(push(clock=n)), number=n)) for n in range(ASSEMBLIES_MAX + 1)]
    with pytest.raises(PacketError, match="too many messages begun"):
        assembled(heads)
    with pytest.raises(PacketError, match="too many messages begun"):
        assembled([heads[0], heads[0]])


def test_a_chunk_of_no_message_is_refused() -> None:
    with pytest.raises(PacketError, match="no known message"):
        assembled([Frame(3, None, memoryview(b"x"))])
    done = list(frames(letter(Pull(0, 1))))
    with pytest.raises(PacketError, match="no known message"):
        assembled([*done, Frame(1, None, memoryview(b"x"))])


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
def test_damaged_frames_raise_nothing_but_what_the_server_expects(envelope: Envelope, data: st.DataObject) -> None:
    assembler = Assembler("me", LIMIT, Meter())
    for frame in raw(envelope):
        with contextlib.suppress(PacketError, ValueError, DecodeError):
            assembler.add(decode(damaged(frame, data)), 0.0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=4))
def test_noise_raises_nothing_but_what_the_server_expects(noise: list[bytes]) -> None:
    assembler = Assembler("me", LIMIT, Meter())
    for frame in noise:
        with contextlib.suppress(PacketError, ValueError, DecodeError):
            assembler.add(decode(frame), 0.0)


def test_a_stream_speaks_for_one_peer() -> None:
    """Whoever opens it cannot have another worker's contributions refused, or its rounds closed."""
    assembler = Assembler("me", LIMIT, Meter())
    mine, foreign = (letter(push(8))._replace(source=name) for name in ("w1", "w2"))
    for frame in frames(mine, 1, size=8):
        assembler.add(frame, 0.0)
    with pytest.raises(PacketError, match="a stream of w1 speaks for w2"):
        assembler.add(next(iter(frames(foreign, 2, size=8))), 0.0)


def test_the_time_of_a_message_is_from_its_first_frame_to_its_last() -> None:
    meter = Meter()
    assembler = Assembler("me", LIMIT, meter)
    first, *rest = frames(letter(push(8)), 1, size=8)
    assembler.add(first, 10.0)
    for number, frame in enumerate(rest, start=1):
        assembler.add(frame, 10.0 + number)
    assert meter.receiving_s == len(rest) > 1
    assert meter.receiving_bytes == sum(len(frame.chunk) for frame in rest)
