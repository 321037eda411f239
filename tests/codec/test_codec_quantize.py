from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roadtrain.codec import parse

KINDS = [("int8", 256, 127), ("int4", 64, 7)]


def per_block_largest(x: torch.Tensor, block: int) -> torch.Tensor:
    """The largest |x| of each value's block."""
    rows = torch.nn.functional.pad(x, (0, -x.numel() % block)).view(-1, block)
    return rows.abs().amax(1, True).expand(rows.shape).reshape(-1)[: x.numel()]


@pytest.mark.parametrize(("spec", "block", "top"), KINDS)
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 700),
    seed=st.integers(0, 1000),
    exponent=st.integers(-25, 35),
    spread=st.floats(0, 4),
)
def test_every_value_is_within_half_a_step(
    spec: str, block: int, top: int, n: int, seed: int, exponent: int, spread: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, generator=generator) * torch.exp(spread * torch.randn(n, generator=generator))
    x = x / x.abs().max() * 10.0**exponent
    y = parse(spec).decode(parse(spec).encode(x))
    step = per_block_largest(x, block) / top * (1 + 2**-8)  # the scale is rounded to eight bits
    assert ((x - y).abs() <= step * 0.5001).all()


@pytest.mark.parametrize(("spec", "block", "top"), KINDS)
@pytest.mark.parametrize("scale", [1.0, 2.0**-60, 2.0**80, 1.5, 0.8046875 * 2.0**-20])
def test_values_of_the_grid_are_exact(spec: str, block: int, top: int, scale: float) -> None:
    q = torch.randint(-top, top + 1, (5 * block + 3,), generator=torch.Generator().manual_seed(1)).float()
    q[::block] = float(top)
    x = q * scale
    assert torch.equal(parse(spec).decode(parse(spec).encode(x)), x)


@pytest.mark.parametrize("spec", ["int8", "int4"])
def test_scales_neither_overflow_nor_vanish(spec: str) -> None:
    codec = parse(spec)
    for largest in (3.3e38, 65504.0 * 127 * 2, 1e-7, 1e-25):
        x = torch.tensor([largest, -largest, 0.0])
        torch.testing.assert_close(codec.decode(codec.encode(x)), x, rtol=0.01, atol=0)
    for tiny in (1e-37, 1e-38, 1e-45):
        assert codec.decode(codec.encode(torch.tensor([tiny, -tiny]))).tolist() == [0.0, 0.0]


def test_int4_puts_the_first_half_of_a_block_in_the_low_bits() -> None:
    x = torch.zeros(64)
    x[0], x[32], x[63] = 7.0, -7.0, 3.0
    scales, both = parse("int4").encode(x).parts
    assert scales.view(torch.bfloat16).tolist() == [1.0]
    assert both.tolist() == [(7 + 8) | (-7 + 8) << 4] + [8 | 8 << 4] * 30 + [8 | (3 + 8) << 4]


@pytest.mark.parametrize(("spec", "error"), [("int8", 0.008), ("int4", 0.115)])
def test_the_error_on_gaussian_values_is_as_documented(spec: str, error: float) -> None:
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    y = parse(spec).decode(parse(spec).encode(x))
    assert (x - y).norm() / x.norm() < error
