from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from letters import KINDS, letter, packets, plain, push

from roadtrain.codec import Packet
from roadtrain.errors import PacketError
from roadtrain.message import Params, Part, Pull, Remote, Replicate, Snapshot
from roadtrain.wire.header import PACKETS_MAX, PARTS_MAX, body_bytes, envelope_of, header_of

LIMIT = 1 << 20


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
        Replicate(0, 1, 0, (Part("a", 1, 1.0, 0, Packet("none", "float32", 0, ())),), None, 0),
        Replicate(0, 1, 0, (), Packet("none", "float32", 0, ()), 0),
        Snapshot(0, 0, 1, (), (("theta", Packet("none", "float32", 0, ())),)),
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


def test_packets_of_a_body_are_views_of_it() -> None:
    header, (part,) = header_of(letter(push(values=4)))
    body = bytearray(part)
    message = envelope_of(header, body, "b").message
    assert plain(message) == plain(push(values=4))
    (packet,) = [p for p in [getattr(message, "packet", None)] if p is not None]
    body[0] ^= 1
    assert not torch.equal(packet.parts[0], push(values=4).packet.parts[0])  # type: ignore[union-attr]
