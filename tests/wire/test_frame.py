from __future__ import annotations

import contextlib
from typing import Any, get_args

import pytest
import torch
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from letters import KINDS, envelopes, frames, letter, packets, plain, push

from roadtrain.codec import Packet
from roadtrain.errors import PacketError
from roadtrain.message import Envelope, Outdated, Params, Part, Pull, Record, Remote, Snapshot, View
from roadtrain.wire import roadtrain_pb2 as pb
from roadtrain.wire.frame import PACKETS_MAX, PARTS_MAX, body_bytes, chunks, encode_chunk, envelope_of, header_of
from roadtrain.wire.meter import Meter
from roadtrain.wire.server import ASSEMBLIES_MAX, Assembler

LIMIT = 1 << 20


def assembled(parts: list[pb.Frame], limit: int = LIMIT) -> list[Envelope]:
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
    sent = [pb.Frame.FromString(frame.SerializeToString()) for frame in frames(envelope, size=size)]
    assert all(len(frame.chunk) <= size for frame in sent)
    (received,) = assembled(sent)
    assert plain(received) == plain(envelope)


@settings(max_examples=60, deadline=None)
@given(st.lists(envelopes, min_size=2, max_size=ASSEMBLIES_MAX), st.randoms(use_true_random=False))
def test_messages_may_interleave(letters: list[Envelope], random: Any) -> None:
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


def test_sections_of_a_body_are_cut_and_not_copied_before() -> None:
    _, parts = header_of(letter(push(values=10)))
    assert [len(part) for part in parts] == [40]
    assert [len(chunk) for chunk in chunks(parts, 16)] == [16, 16, 8]
    assert b"".join(chunks(parts, 16)) == bytes(parts[0])


@given(st.integers(1, 2**64 - 1), st.binary(min_size=1, max_size=300))
def test_a_chunk_is_encoded_as_protobuf_does(number: int, chunk: bytes) -> None:
    assert encode_chunk(number, memoryview(chunk)) == pb.Frame(id=number, chunk=chunk).SerializeToString()


# ------------------------------------------------------------------------------------------------------- limits


def test_a_body_over_the_limit_is_refused_before_it_is_allocated() -> None:
    header, _ = header_of(letter(push()))
    assert body_bytes(header, 400) == 400
    with pytest.raises(PacketError, match="400 bytes where at most 399"):
        body_bytes(header, 399)
    # Were it allocated first, this would be a MemoryError.
    header.packets[0].sizes[0] = 2**63
    with pytest.raises(PacketError, match="at most"):
        assembled([pb.Frame(id=1, header=header)])
    header.packets[0].sizes[:] = [2**63, 2**63]  # their sum is 0 in 64 bits
    with pytest.raises(PacketError, match="at most"):
        assembled([pb.Frame(id=1, header=header)])


def test_too_many_packets_or_parts_are_refused() -> None:
    header, _ = header_of(letter(push()))
    header.packets[0].sizes[:] = [0] * (PARTS_MAX + 1)
    with pytest.raises(PacketError, match="too many packets"):
        body_bytes(header, LIMIT)
    header.packets[0].sizes[:] = [400]
    for _ in range(PACKETS_MAX):
        header.packets.add()
    with pytest.raises(PacketError, match="too many packets"):
        body_bytes(header, LIMIT)


def test_a_body_longer_than_announced_is_refused() -> None:
    head, *rest = frames(letter(push(values=8)))
    with pytest.raises(PacketError, match="longer than announced"):
        assembled([head, rest[0], pb.Frame(id=1, chunk=rest[1].chunk + b"x")])


def test_a_stream_begins_only_so_many_messages_at_once() -> None:
    heads = [next(frames(letter(push(clock=n)), number=n)) for n in range(ASSEMBLIES_MAX + 1)]
    with pytest.raises(PacketError, match="too many messages begun"):
        assembled(heads)
    with pytest.raises(PacketError, match="too many messages begun"):
        assembled([heads[0], heads[0]])


def test_a_chunk_of_no_message_is_refused() -> None:
    with pytest.raises(PacketError, match="no known message"):
        assembled([pb.Frame(id=3, chunk=b"x")])
    done = list(frames(letter(Pull(0, 1))))
    with pytest.raises(PacketError, match="no known message"):
        assembled([*done, pb.Frame(id=1, chunk=b"x")])


# -------------------------------------------------------------------------------------------------- corruption


@pytest.mark.parametrize("position", [0, 17, 399])
def test_a_flipped_bit_of_the_body_is_seen(position: int) -> None:
    header, (part,) = header_of(letter(push()))
    body = bytearray(part)
    assert envelope_of(header, body, "b").message.__class__.__name__ == "Push"
    body[position] ^= 4
    with pytest.raises(PacketError, match="checksum"):
        envelope_of(header, body, "b")


@pytest.mark.parametrize(
    "message",
    [
        Params(0, 1, 1, 0, 0, True, True, Packet("none", "float32", 0, ())),
        Record(0, 1, 0, (Part("a", 1, 1.0, 0, Packet("none", "float32", 0, ())),), None, 0),
        Record(0, 1, 0, (), Packet("none", "float32", 0, ()), 0),
        Snapshot(0, 1, (), (("theta", Packet("none", "float32", 0, ())),)),
    ],
    ids=["params", "part", "mean", "snapshot"],
)
def test_a_message_without_its_packet_is_refused(message: Remote) -> None:
    header, _ = header_of(letter(message))
    del header.packets[:]
    with pytest.raises(PacketError, match="too few packets"):
        envelope_of(header, bytearray(), "b")


@settings(max_examples=30, deadline=None)
@given(data=st.data(), extra=packets)
def test_a_message_with_a_packet_too_many_is_refused(data: st.DataObject, extra: Packet) -> None:
    message = data.draw(st.one_of(*[drawn for kind, drawn in KINDS.items() if kind.__name__ != "Push"]))
    header, parts = header_of(letter(message))
    header.packets.add(codec=extra.codec, dtype=extra.dtype, numel=extra.numel)
    with pytest.raises(PacketError, match="too many packets"):
        envelope_of(header, bytearray(b"".join(parts)), "b")


def test_a_message_of_no_kind_is_refused() -> None:
    header, _ = header_of(letter(Pull(0, 1)))
    header.ClearField("message")
    with pytest.raises(PacketError, match="no known kind"):
        envelope_of(header, bytearray(), "b")


def test_a_view_of_unequal_lists_is_refused() -> None:
    header, _ = header_of(letter(Outdated(View(1, (), ("a",), ("b",)))))
    header.outdated.standbys.append("c")
    with pytest.raises(PacketError, match="do not match"):
        envelope_of(header, bytearray(), "b")


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
    for frame in frames(envelope):
        with contextlib.suppress(PacketError, ValueError, DecodeError):
            assembler.add(pb.Frame.FromString(damaged(frame.SerializeToString(), data)), 0.0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=4))
def test_noise_raises_nothing_but_what_the_server_expects(noise: list[bytes]) -> None:
    assembler = Assembler("me", LIMIT, Meter())
    for raw in noise:
        with contextlib.suppress(PacketError, ValueError, DecodeError):
            assembler.add(pb.Frame.FromString(raw), 0.0)


def test_packets_of_a_body_are_views_of_it() -> None:
    header, (part,) = header_of(letter(push(values=4)))
    body = bytearray(part)
    message = envelope_of(header, body, "b").message
    assert plain(message) == plain(push(values=4))
    (packet,) = [p for p in [getattr(message, "packet", None)] if p is not None]
    body[0] ^= 1
    assert not torch.equal(packet.parts[0], push(values=4).packet.parts[0])  # type: ignore[union-attr]


def test_the_time_of_a_message_is_from_its_header_to_its_last_chunk() -> None:
    meter = Meter()
    assembler = Assembler("me", LIMIT, meter)
    first, *rest = frames(letter(push(8)), 1, size=8)
    assembler.add(first, 10.0)
    for number, frame in enumerate(rest, start=1):
        assembler.add(frame, 10.0 + number)
    assert meter.receiving_s == len(rest) > 1
