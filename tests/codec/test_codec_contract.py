"""What every codec promises, whatever its format."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from roadtrain.codec import blockwise, check, parse
from roadtrain.errors import PacketError

TERNARY = f"{Path(__file__).parents[2] / 'examples' / 'my_codec.py'}:Ternary"
SPECS = [
    "none",
    "fp16",
    "bf16",
    "int8",
    "int4",
    "onebit",
    "topk:1.0",
    "topk:0.01",
    "topk:0.3",
    "topk:0.05+fp16",
    "topk:0.05+bf16",
    "topk:0.02+int8",
    "topk:0.1+int4",
    "topk:0.05+onebit",
    "topk:0.5+topk:0.2+int8",
    "dgc:0.02",
    "dgc:0.1+int8",
    "powersgd:1",
    "powersgd:3",
    "powersgd:2:16",
    "powersgd:2+int8",
    "topk:0.3+powersgd:1",
    TERNARY,
    f"topk:0.1+{TERNARY}",
]
LENGTHS = [1, 2, 7, 8, 63, 64, 65, 255, 256, 257, 1023, 1024, 1025, 5000]
DTYPES = [torch.float32, torch.float64]


def vector(n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spec", SPECS)
def test_a_packet_passes_its_check_and_decodes_to_the_same_kind_of_vector(spec: str, dtype: torch.dtype) -> None:
    codec = parse(spec)
    for n in LENGTHS:
        x = vector(n, dtype=dtype)
        before = x.clone()
        packet = codec.encode(x)
        check(packet, codec, n, dtype)
        y = codec.decode(packet)
        assert torch.equal(x, before)
        assert y.shape == x.shape
        assert y.dtype == dtype
        assert y.isfinite().all()
        assert torch.dot(x, y) > 0
        assert packet.nbytes <= codec.nbytes_max(n, dtype)
        if not any(varies in spec for varies in ("topk", "dgc", "Ternary")):
            assert packet.nbytes == codec.nbytes_max(n, dtype)
        assert torch.equal(codec.decode(packet, torch.full_like(x, 7.0)), y)


@pytest.fixture
def several_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest vector takes three."""
    monkeypatch.setattr(blockwise, "TILE", 2048)


@pytest.mark.usefixtures("several_tiles")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spec", SPECS)
def test_a_packet_is_added_as_its_values_would_be(spec: str, dtype: torch.dtype) -> None:
    codec = parse(spec)
    for n in [0, *LENGTHS]:
        packet, held = codec.encode(vector(n, dtype=dtype)), vector(n, seed=1, dtype=dtype)
        wanted = held + codec.decode(packet) * 0.3
        codec.add(packet, held, 0.3)
        assert torch.equal(held, wanted)


@pytest.mark.usefixtures("several_tiles")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spec", SPECS)
def test_who_approaches_a_target_holds_what_a_receiver_does(spec: str, dtype: torch.dtype) -> None:
    codec = parse(spec)
    for n in [0, *LENGTHS]:
        target, held = vector(n, dtype=dtype), vector(n, seed=1, dtype=dtype)
        before, received = target.clone(), held.clone()
        difference = codec.encode(target - held)
        packet = codec.approach(held, target)
        check(packet, codec, n, dtype)
        assert all(torch.equal(a, b) for a, b in zip(packet.parts, difference.parts, strict=True))
        codec.add(packet, received)
        assert torch.equal(held, received)
        assert torch.equal(target, before)


@pytest.mark.parametrize("spec", SPECS)
def test_a_packet_is_added_only_to_a_vector_that_it_fits(spec: str) -> None:
    codec = parse(spec)
    packet = codec.encode(vector(300))
    for held in (torch.zeros(299), torch.zeros(300, dtype=torch.float64), torch.zeros(600)[::2]):
        with pytest.raises(ValueError, match="do not fit"):
            codec.add(packet, held)
    with pytest.raises(PacketError):
        parse("bf16" if spec == "none" else "none").add(packet, torch.zeros(300))


@pytest.mark.parametrize("spec", SPECS)
def test_only_vectors_of_one_kind_approach_each_other(spec: str) -> None:
    held = vector(300)
    for target in (torch.zeros(299), torch.zeros(300, dtype=torch.float64), torch.zeros(600)[::2]):
        with pytest.raises(ValueError, match=r"approach|contiguous"):
            parse(spec).approach(held, target)
    assert torch.equal(held, vector(300))


@pytest.mark.parametrize("spec", SPECS)
def test_zeros_and_nothing_stay_what_they_are(spec: str) -> None:
    codec = parse(spec)
    for n in [0, *LENGTHS]:
        packet = codec.encode(torch.zeros(n))
        check(packet, codec, n, torch.float32)
        assert torch.equal(codec.decode(packet), torch.zeros(n))


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=25, deadline=None)
@given(
    n=st.sampled_from(LENGTHS),
    bad=st.sampled_from([math.nan, math.inf, -math.inf]),
    where=st.floats(0, 1, exclude_max=True),
    scale=st.sampled_from([0.0, 1e-30, 1.0, 1e30]),
    dtype=st.sampled_from(DTYPES),
)
def test_a_value_that_is_not_finite_survives(
    spec: str, n: int, bad: float, where: float, scale: float, dtype: torch.dtype
) -> None:
    codec = parse(spec)
    x = vector(n, dtype=dtype) * scale
    x[int(where * n)] = bad
    packet = codec.encode(x)
    check(packet, codec, n, dtype)
    assert not codec.decode(packet).isfinite().all()


@pytest.mark.parametrize("spec", SPECS)
def test_a_nan_of_any_bit_pattern_survives(spec: str) -> None:
    codec = parse(spec)
    for pattern in (0x7FFFFFFF, 0x7F800001, -1, -0x7FFFFF):
        x = vector(600)
        x.view(torch.int32)[599] = pattern
        assert x.isnan().any()
        assert not codec.decode(codec.encode(x)).isfinite().all()


@pytest.mark.parametrize("spec", SPECS)
def test_vectors_of_several_tiles_are_written_as_a_whole(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = parse(spec)
    x = vector(5000, seed=3)
    whole = codec.encode(x)
    monkeypatch.setattr(blockwise, "TILE", 1024)
    parts = codec.encode(x)
    assert all(torch.equal(a, b) for a, b in zip(whole.parts, parts.parts, strict=True))
    tiled = codec.decode(parts)
    monkeypatch.undo()
    assert torch.equal(tiled, codec.decode(whole))


@pytest.mark.parametrize("spec", SPECS)
def test_threads_may_share_a_codec(spec: str) -> None:
    codec = parse(spec)
    vectors = [vector(30_000, seed) for seed in range(8)]
    alone = [codec.decode(codec.encode(x)) for x in vectors]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda x: codec.decode(codec.encode(x)), vectors))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@settings(max_examples=150, deadline=None)
@given(
    spec=st.sampled_from(SPECS),
    values=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=300),
    dtype=st.sampled_from(DTYPES),
)
@example(spec="int8", values=[1e-44], dtype=torch.float32)
def test_any_finite_values_decode_to_finite_values_no_larger(
    spec: str, values: list[float], dtype: torch.dtype
) -> None:
    x = torch.tensor(values, dtype=dtype)
    y = parse(spec).decode(parse(spec).encode(x))
    assert y.isfinite().all()
    if "powersgd" in spec:  # a projection is shorter, but not in every value
        assert y.norm() <= x.norm() * 1.02 + 1e-30
    else:
        assert y.abs().max() <= x.abs().max() * 1.01 + 1e-30


@pytest.mark.parametrize(
    ("spec", "ratio"),
    [("bf16", 2), ("fp16", 2), ("int8", 3.9), ("int4", 7.4), ("onebit", 30), ("topk:0.01+int8", 150)],
)
def test_packets_are_as_small_as_promised(spec: str, ratio: float) -> None:
    x = vector(100_000)
    assert 4 * x.numel() / parse(spec).encode(x).nbytes >= ratio


def test_only_contiguous_float_vectors_are_encoded() -> None:
    codec = parse("int8")
    for wrong in (torch.zeros(2, 2), torch.zeros(8)[::2], torch.zeros(4, dtype=torch.int64), torch.zeros(4).half()):
        with pytest.raises(ValueError, match="contiguous float vector"):
            codec.encode(wrong)
    packet = codec.encode(torch.zeros(4))
    for wrong in (torch.zeros(5), torch.zeros(4).double(), torch.zeros(8)[::2]):
        with pytest.raises(ValueError, match="do not fit"):
            codec.decode(packet, wrong)
