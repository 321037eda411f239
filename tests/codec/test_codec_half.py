from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roadtrain.codec import parse

FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.floats(), min_size=1, max_size=50), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_none_is_exact(values: list[float], dtype: torch.dtype) -> None:
    x = torch.tensor(values, dtype=dtype)
    y = parse("none").decode(parse("none").encode(x))
    torch.testing.assert_close(y, x, rtol=0, atol=0, equal_nan=True)


def test_none_copies_nothing() -> None:
    x = torch.arange(5.0)
    packet = parse("none").encode(x)
    assert packet.parts[0].data_ptr() == x.data_ptr()
    assert parse("none").decode(packet).data_ptr() == x.data_ptr()


@settings(max_examples=100, deadline=None)
@given(values=FLOATS)
@pytest.mark.parametrize(("spec", "kind"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_half_precision_rounds_to_nearest_and_clamps_what_is_finite(
    spec: str, kind: torch.dtype, values: list[float]
) -> None:
    x = torch.tensor(values)
    y = parse(spec).decode(parse(spec).encode(x))
    info = torch.finfo(kind)
    expected = x.clamp(-info.max, info.max)
    assert y.isfinite().all()
    assert ((y - expected).abs() <= expected.abs() * info.eps / 2 + info.smallest_normal * info.eps / 2).all()


def test_fp16_clamps_finite_values_beside_infinite_ones() -> None:
    x = torch.tensor([1e6, -1e6, 65504.0, 2.0, math.inf, -math.inf, math.nan])
    y = parse("fp16").decode(parse("fp16").encode(x))
    expected = torch.tensor([65504.0, -65504.0, 65504.0, 2.0, math.inf, -math.inf, math.nan])
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)


def test_a_float64_beyond_float32_is_clamped_too() -> None:
    x = torch.tensor([1e300, -1e300, 1.5], dtype=torch.float64)
    y = parse("bf16").decode(parse("bf16").encode(x))
    largest = torch.finfo(torch.bfloat16).max
    assert y.tolist() == [largest, -largest, 1.5]
