from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roadtrain.codec import Feedback, check, parse
from roadtrain.codec.powersgd import ALIGN, Shape


def gauss(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@settings(max_examples=200, deadline=None)
@given(numel=st.integers(0, 2_000_000), rank=st.integers(1, 64), width=st.one_of(st.none(), st.integers(1, 5000)))
def test_the_matrix_holds_the_vector_and_its_factors_are_smaller(numel: int, rank: int, width: int | None) -> None:
    shape = Shape.of(numel, rank, width)
    if shape is None:
        return
    assert shape.rows * shape.width - shape.width < numel <= shape.rows * shape.width
    assert rank * (shape.rows + shape.width) < numel
    assert rank < min(shape.rows, shape.width)
    assert shape.width == (width or shape.width)
    assert width or shape.width < ALIGN or shape.width % ALIGN == 0


@pytest.mark.parametrize("spec", ["powersgd:4", "powersgd:4:96", "powersgd:2+int8", "powersgd:3+topk:0.5"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_size_of_a_packet_follows_from_numel(spec: str, dtype: torch.dtype) -> None:
    codec = parse(spec)
    for numel in (0, 1, 15, 16, 17, 100, 4096, 20_000, 20_001):
        packet = codec.encode(gauss(numel, dtype=dtype))
        check(packet, codec, numel, dtype)
        if "topk" not in spec:
            assert packet.nbytes == codec.nbytes_max(numel, dtype)


def test_a_vector_that_its_factors_would_not_make_smaller_is_sent_as_it_is() -> None:
    for numel in (1, 5, 30, 60):
        x = gauss(numel)
        assert torch.equal(parse("powersgd:4").decode(parse("powersgd:4").encode(x)), x)
    assert torch.equal(parse("powersgd:200").decode(parse("powersgd:200").encode(gauss(40_000))), gauss(40_000))


@settings(max_examples=30, deadline=None)
@given(
    rank=st.integers(1, 4),
    rows=st.integers(20, 90),
    width=st.integers(20, 90),
    cut=st.integers(0, 15),
    seed=st.integers(0, 100),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_a_matrix_of_that_rank_arrives(
    rank: int, rows: int, width: int, cut: int, seed: int, dtype: torch.dtype
) -> None:
    """Also where its last row is not whole: then one rank more holds it."""
    matrix = gauss(rows, rank, seed=seed, dtype=dtype) @ gauss(rank, width, seed=seed + 1, dtype=dtype)
    x = matrix.view(-1)[: rows * width - cut].contiguous()
    codec = parse(f"powersgd:{rank + 1}:{width}")
    tolerance = 1e-4 if dtype is torch.float32 else 1e-11
    assert (codec.decode(codec.encode(x)) - x).norm() <= tolerance * x.norm()


@pytest.mark.parametrize(("rank", "share"), [(1, 0.9), (4, 0.98)])
def test_without_a_memory_little_is_lost_against_the_best_of_that_rank(rank: int, share: float) -> None:
    """Gaussian noise beside as many directions that stand out: the energy is near that of the truncated SVD."""
    matrix = gauss(200, 128) + 3 * (gauss(200, rank, seed=1) @ gauss(rank, 128, seed=2))
    values = torch.linalg.svdvals(matrix).square()
    codec = parse(f"powersgd:{rank}:128")
    arrived = codec.decode(codec.encode(matrix.view(-1))).square().sum()
    assert arrived >= share * values[:rank].sum()
    assert arrived <= 1.001 * values[:rank].sum()


def test_a_warm_start_finds_the_best_directions() -> None:
    """A flat spectrum, where two power steps are not enough; what is sent again and again converges to the SVD's part."""
    matrix = gauss(128, 128) @ torch.diag(torch.linspace(1, 2, 128))
    codec = parse("powersgd:2:128")
    cold = codec.decode(codec.encode(matrix.view(-1))).norm()
    feedback = Feedback(codec, matrix.numel(), torch.float32)
    for _ in range(40):
        feedback.encode(matrix.view(-1))
        memory = feedback.state()
        feedback.load({**memory, "residual": torch.zeros_like(memory["residual"])})
    assert codec.decode(feedback.encode(matrix.view(-1))).norm() > 1.02 * cold


def test_padding_is_never_sent() -> None:
    """What the product puts into the padding must not come back as a residual."""
    feedback = Feedback(parse("powersgd:1:50"), 2020, torch.float32)
    for seed in range(5):
        feedback.encode(gauss(2020, seed=seed))
        assert torch.equal(feedback.state()["residual"][2020:], torch.zeros(30))


@pytest.mark.parametrize("spec", ["powersgd:1:64", "powersgd:2:64+int8"])
def test_directions_that_were_empty_are_found_when_they_fill(spec: str) -> None:
    """An embedding of which first one row is used, then nothing, then another row."""
    codec = parse(spec)
    feedback = Feedback(codec, 64 * 64, torch.float32)
    first, other = (torch.zeros(64, 64) for _ in range(2))
    first[40, 3], other[60, 7] = 1.0, 1.0
    for x in (first, torch.zeros(64, 64)):
        for _ in range(5):
            feedback.encode(x.view(-1))
    arrived = sum(codec.decode(feedback.encode(other.view(-1))) for _ in range(10))
    assert isinstance(arrived, torch.Tensor)
    torch.testing.assert_close(arrived.view(64, 64) / 10, other, atol=0.02, rtol=0)


@pytest.mark.parametrize("size", [1e-40, 1e-25, 1e-12, 1e12, 1e18])
def test_size_does_not_matter(size: float) -> None:
    x = (gauss(90, 1) @ gauss(1, 70, seed=1)).view(-1)
    codec = parse("powersgd:1:70")
    arrived = codec.decode(codec.encode(x * size)).double() / size
    assert (arrived - x).norm() < 1e-3 * x.norm() or size < 1e-38
    assert arrived.isfinite().all()


@pytest.mark.parametrize("spec", ["powersgd:2", "powersgd:2+int8", "powersgd:2+fp16"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_value_spoils_the_packet_and_not_the_memory(spec: str, bad: float) -> None:
    feedback = Feedback(parse(spec), 5000, torch.float32)
    feedback.encode(gauss(5000))
    x = gauss(5000)
    x[4321] = bad
    assert feedback.codec.decode(feedback.encode(x)).isnan().any()
    assert all(value.isfinite().all() for value in feedback.state().values())


def test_equal_inputs_give_equal_bits_and_touch_no_random_state() -> None:
    before = torch.get_rng_state()
    codec = parse("powersgd:4")
    first, second = (codec.encode(gauss(30_000)) for _ in range(2))
    assert all(map(torch.equal, first.parts, second.parts))
    one, other = (Feedback(codec, 30_000, torch.float32) for _ in range(2))
    for seed in range(3):
        assert all(
            map(torch.equal, one.encode(gauss(30_000, seed=seed)).parts, other.encode(gauss(30_000, seed=seed)).parts)
        )
    assert torch.equal(torch.get_rng_state(), before)


def test_decoding_rounds_as_one_value_at_a_time_does() -> None:
    """No fused multiply-add, no order of summation that depends on the machine: receivers must hold the same bits."""
    codec = parse("powersgd:3:100")
    packet = codec.encode(gauss(9_950))
    left = packet.parts[0].view(torch.float32).view(3, 100)
    right = packet.parts[1].view(torch.float32).view(3, 100)
    product = left[0].outer(right[0]) + left[1].outer(right[1])
    assert torch.equal(codec.decode(packet), (product + left[2].outer(right[2])).view(-1)[:9_950])
