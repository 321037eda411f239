from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from letters import encoded, envelopes, letter, push

from roadtrain.errors import PacketError
from roadtrain.message import Envelope, Pull
from roadtrain.wire import roadtrain_pb2 as pb
from roadtrain.wire.frame import Encoder, acknowledgement, decode
from roadtrain.wire.header import header_of

counts = st.integers(0, 2**64 - 1)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=4), st.integers(1, 50))
def test_chunks_are_full_whatever_the_parts_of_the_body(parts: list[bytes], size: int) -> None:
    header = pb.Header(view=1)
    sent = [decode(frame).chunk for frame in encoded(Encoder(header, [memoryview(part) for part in parts]), size)]
    assert b"".join(sent) == b"".join(parts)
    assert all(len(chunk) == size for chunk in sent[:-1])
    assert len(sent) == max(1, -(-sum(map(len, parts)) // size))


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=4), st.lists(st.integers(1, 50), min_size=200))
def test_each_chunk_may_have_a_size_of_its_own(parts: list[bytes], sizes: list[int]) -> None:
    encoder, sent = Encoder(pb.Header(view=1), [memoryview(part) for part in parts]), b""
    for size in sizes:
        if encoder.done:
            break
        chunk = decode(encoder.frame(size)).chunk
        assert len(chunk) == size or encoder.done
        sent += chunk
    assert sent == b"".join(parts)


@given(counts, envelopes, st.integers(1, 300))
def test_frames_are_what_protobuf_makes_of_them(taken: int, envelope: Envelope, size: int) -> None:
    for position, frame in enumerate(encoded(Encoder(*header_of(envelope)), size)):
        made = pb.Frame.FromString(frame)
        assert made.HasField("header") == (position == 0)
        assert made.SerializeToString() == frame
        assert decode(frame) == (made.header if position == 0 else None, made.chunk, None, len(frame))
        told = acknowledgement(taken) + frame
        assert pb.Frame.FromString(told) == pb.Frame(
            header=made.header if not position else None, chunk=made.chunk, taken=taken
        )
        assert decode(told) == (*decode(frame)[:2], taken, len(frame)), "its size is without the acknowledgement"


@given(counts)
def test_an_acknowledgement_alone_has_no_size(taken: int) -> None:
    assert decode(acknowledgement(taken)) == (None, b"", taken, 0)


def test_what_is_put_before_a_frame_is_its_beginning() -> None:
    told = acknowledgement(300)
    assert Encoder(*header_of(letter(push()))).frame(8, told) == told + Encoder(*header_of(letter(push()))).frame(8)


@pytest.mark.parametrize("noise", [b"\xff" * 40, b"\x0a\x7f", b"\x18", b"\x18" + b"\xff" * 12], ids=str)
def test_a_frame_that_is_none_is_refused(noise: bytes) -> None:
    (whole,) = encoded(Encoder(*header_of(letter(Pull(0, 1)))), 8)
    with pytest.raises(PacketError, match="a frame that is none"):
        decode(whole + noise)
