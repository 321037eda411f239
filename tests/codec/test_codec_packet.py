"""The trust boundary: packets of a peer that is broken or hostile."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roadtrain.codec import Packet, check, parse
from roadtrain.errors import PacketError

SPECS = ["none", "fp16", "bf16", "int8", "int4", "onebit", "topk:0.1", "topk:0.02+int8", "topk:0.5+topk:0.2+onebit"]
N = 3000


def packet_of(spec: str, n: int = N) -> Packet:
    return parse(spec).encode(torch.randn(n, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("spec", SPECS)
def test_a_packet_of_another_codec_length_or_dtype_is_refused(spec: str) -> None:
    codec, packet = parse(spec), packet_of(spec)
    check(packet, codec, N, torch.float32)
    for wrong in (
        replace(packet, codec="int3"),
        replace(packet, numel=N - 1),
        replace(packet, numel=10**15),
        replace(packet, numel=-1),
        replace(packet, dtype="float64"),
        replace(packet, dtype="object"),
        replace(packet, parts=()),
        replace(packet, parts=(*packet.parts, torch.zeros(0, dtype=torch.uint8))),
    ):
        with pytest.raises(PacketError):
            check(wrong, codec, N, torch.float32)
    with pytest.raises(PacketError):
        check(packet, codec, N + 1, torch.float32)


@pytest.mark.parametrize("spec", SPECS)
def test_sections_cut_short_or_too_long_or_of_another_kind_are_refused(spec: str) -> None:
    codec, packet = parse(spec), packet_of(spec)
    for i, part in enumerate(packet.parts):
        for wrong in (
            part[:-1],
            part[:0],
            torch.cat([part, part[:1]]),
            part.view(torch.int8),
            part.view(1, -1),
            torch.cat([part, part])[::2],
            part.to("meta"),
        ):
            parts = (*packet.parts[:i], wrong, *packet.parts[i + 1 :])
            with pytest.raises(PacketError):
                check(replace(packet, parts=parts), codec, N, torch.float32)
            with pytest.raises(PacketError):
                codec.decode(replace(packet, parts=parts))


@settings(max_examples=300, deadline=None)
@given(
    spec=st.sampled_from(SPECS),
    n=st.sampled_from([1, 5, 64, 300, 1025]),
    seed=st.integers(0, 2**31),
    low=st.sampled_from([0, 0, 250, 254]),
    cut=st.booleans(),
)
def test_random_bytes_are_refused_or_decode_to_a_vector_of_the_right_size(
    spec: str, n: int, seed: int, low: int, cut: bool
) -> None:
    codec = parse(spec)
    generator = torch.Generator().manual_seed(seed)
    layout = codec.format.layout(n, torch.float32)
    sizes = [int(torch.randint(a, b + 1 + cut, (1,), generator=generator)) for a, b in layout]
    parts = tuple(torch.randint(low, 256, (size,), generator=generator, dtype=torch.uint8) for size in sizes)
    packet = Packet(codec.spec, "float32", n, parts)
    try:
        check(packet, codec, n, torch.float32)
    except PacketError:
        with pytest.raises(PacketError):
            codec.decode(packet)
        return
    y = codec.decode(packet)
    assert y.shape == (n,)
    assert y.dtype is torch.float32


@settings(max_examples=200, deadline=None)
@given(spec=st.sampled_from(["topk:0.1", "topk:0.5+topk:0.2+onebit"]), at=st.integers(0, 299), byte=st.integers(0, 255))
def test_one_wrong_gap_is_refused_or_harmless(spec: str, at: int, byte: int) -> None:
    codec, packet = parse(spec), packet_of(spec)
    section = packet.parts[0].clone()
    section[at] = byte
    wrong = replace(packet, parts=(section, *packet.parts[1:]))
    try:
        check(wrong, codec, N, torch.float32)
    except PacketError:
        return
    assert codec.decode(wrong).shape == (N,)


def test_indices_beyond_the_vector_are_refused() -> None:
    codec, packet = parse("topk:0.1"), packet_of("topk:0.1", 100)
    values = packet.parts[1]
    for section in ([9] * 9 + [10], [254] * 10, [0] * 9 + [255], [255] + [0] * 9):
        wrong = replace(packet, parts=(torch.tensor(section, dtype=torch.uint8), values))
        with pytest.raises(PacketError):
            check(wrong, codec, 100, torch.float32)
        with pytest.raises(PacketError):
            codec.decode(wrong)
    open_end = replace(
        packet_of("topk:0.1"), parts=(torch.tensor([0] * 300 + [255], dtype=torch.uint8), values.repeat(30))
    )
    with pytest.raises(PacketError):
        check(open_end, codec, N, torch.float32)
    last = replace(packet, parts=(torch.tensor([9] * 10, dtype=torch.uint8), values))
    assert codec.decode(last).nonzero().view(-1).tolist() == list(range(9, 100, 10))


@pytest.mark.parametrize("spec", SPECS)
def test_sections_may_lie_anywhere_in_a_receive_buffer(spec: str) -> None:
    codec, packet = parse(spec), packet_of(spec)
    shifted: list[torch.Tensor] = []
    for part in packet.parts:
        buffer = torch.zeros(part.numel() + 1, dtype=torch.uint8)
        shifted.append(buffer[1:].copy_(part))
    moved = replace(packet, parts=tuple(shifted))
    check(moved, codec, N, torch.float32)
    assert torch.equal(codec.decode(moved), codec.decode(packet))
