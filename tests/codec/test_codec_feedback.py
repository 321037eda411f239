from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roadtrain.codec import Feedback, Memory, blockwise, check, parse
from roadtrain.errors import UsageError

BLOCKS = ["int8", "int4", "onebit", "topk:0.1", "topk:0.01+int8", "topk:0.2+onebit", "topk:0.3+bf16"]
TERNARY = f"{Path(__file__).parents[2] / 'examples' / 'my_codec.py'}:Ternary"
BIASED = [*BLOCKS, "powersgd:2", "powersgd:1:32", "powersgd:2+int8", "topk:0.2+powersgd:1", TERNARY]
STATEFUL = ["powersgd:2", "dgc:0.1", "dgc:0.1+int8", TERNARY]


def residual(feedback: Feedback) -> torch.Tensor:
    return feedback.state()["residual"]


@pytest.mark.parametrize("spec", BIASED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=12, deadline=None)
@given(n=st.sampled_from([1, 63, 257, 1024, 3000]), seed=st.integers(0, 1000), rounds=st.integers(1, 6))
def test_what_was_received_and_the_residual_make_up_what_was_sent(
    spec: str, dtype: torch.dtype, n: int, seed: int, rounds: int
) -> None:
    codec = parse(spec)
    feedback = Feedback(codec, n, dtype)
    generator = torch.Generator().manual_seed(seed)
    sent, received = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    for _ in range(rounds):
        x = torch.randn(n, generator=generator, dtype=dtype)
        before = x.clone()
        packet = feedback.encode(x)
        check(packet, codec, n, dtype)
        assert torch.equal(x, before)
        sent += x
        received += codec.decode(packet)
    tolerance = 1e-5 if dtype is torch.float32 else 1e-13
    torch.testing.assert_close(received + residual(feedback)[:n], sent, rtol=0, atol=tolerance * rounds * 8)


@pytest.mark.parametrize("spec", BIASED)
def test_a_constant_vector_arrives_in_the_mean(spec: str) -> None:
    codec = parse(spec)
    x = torch.linspace(-1, 1, 500) ** 3
    feedback = Feedback(codec, 500, torch.float32)
    received = torch.zeros(500)
    rounds = 400
    for _ in range(rounds):
        received += codec.decode(feedback.encode(x))
    assert (received / rounds - x).norm() / x.norm() < 0.2


@pytest.mark.parametrize("spec", BLOCKS)
def test_feedback_over_tiles_is_the_plain_formula(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "TILE", 1024)
    codec = parse(spec)
    feedback = Feedback(codec, 2500, torch.float32)
    left = torch.zeros(2500)
    for seed in range(3):
        x = torch.randn(2500, generator=torch.Generator().manual_seed(seed))
        packet = feedback.encode(x)
        plain = codec.encode(x + left)
        left = x + left - codec.decode(plain)
        assert all(torch.equal(a, b) for a, b in zip(packet.parts, plain.parts, strict=True))
        assert torch.equal(residual(feedback), left)


@pytest.mark.parametrize("spec", [*BIASED, "none", "fp16"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_vector_is_visible_and_leaves_the_residual_alone(spec: str, bad: float) -> None:
    codec = parse(spec)
    feedback = Feedback(codec, 700, torch.float32)
    good = torch.randn(700, generator=torch.Generator().manual_seed(0))
    feedback.encode(good)
    before = feedback.state()
    assert bool(before) == codec.biased
    spoiled = good.clone()
    spoiled[650] = bad
    assert not codec.decode(feedback.encode(spoiled)).isfinite().all()
    after = feedback.state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert codec.decode(feedback.encode(good)).isfinite().all()


@pytest.mark.parametrize("spec", BIASED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_values_cannot_poison_the_residual(spec: str, dtype: torch.dtype) -> None:
    feedback = Feedback(parse(spec), 700, dtype)
    for size in (1e15, 1e18, 1e19, 1e30, 3e38, torch.finfo(dtype).max):
        feedback.encode(torch.full((700,), size, dtype=dtype))
        feedback.encode(torch.full((700,), -size / 3, dtype=dtype))
        assert all(value.isfinite().all() for value in feedback.state().values())


def test_an_unbiased_codec_holds_no_residual() -> None:
    feedback = Feedback(parse("bf16"), 5, torch.float32)
    assert feedback.state() == {}
    feedback.load({"residual": torch.ones(5)})
    assert feedback.state() == {}
    x = torch.rand(5)
    assert torch.equal(feedback.encode(x).parts[0], parse("bf16").encode(x).parts[0])


@pytest.mark.parametrize("spec", [*STATEFUL, "int4"])
def test_the_memory_goes_on_where_it_was(spec: str) -> None:
    x = torch.randn(300, generator=torch.Generator().manual_seed(0))
    first, second, fresh = (Feedback(parse(spec), 300, torch.float32) for _ in range(3))
    for _ in range(3):
        first.encode(x)
    saved = first.state()
    assert not same(saved, fresh.state())
    second.load(saved)
    assert all(map(torch.equal, first.encode(x).parts, second.encode(x).parts))
    assert same(first.state(), second.state())
    assert not same(saved, first.state())
    second.load({})
    assert same(second.state(), fresh.state())


@pytest.mark.parametrize("spec", [*STATEFUL, "int4"])
def test_a_memory_that_does_not_fit_is_refused(spec: str) -> None:
    feedback = Feedback(parse(spec), 300, torch.float32)
    for name, value in feedback.state().items():
        spoiled = torch.full_like(value, math.nan) if value.is_floating_point() else value[:0]
        for wrong in ({name: value.view(-1)[:-1]}, {name: spoiled}, {name: None}):
            saved = {k: v for k, v in {**feedback.state(), **wrong}.items() if v is not None}
            with pytest.raises(UsageError, match="does not fit"):
                feedback.load(saved or {"other": value})


def same(one: Memory, other: Memory) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_another_shape_or_dtype_is_refused() -> None:
    feedback = Feedback(parse("int8"), 8, torch.float32)
    for wrong in (torch.zeros(7), torch.zeros(8, dtype=torch.float64), torch.zeros(2, 4)):
        with pytest.raises(ValueError, match="feedback for 8"):
            feedback.encode(wrong)
