from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roadtrain.codec import parse


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 3000), seed=st.integers(0, 1000))
def test_every_value_becomes_its_sign_times_the_mean_magnitude_of_its_block(n: int, seed: int) -> None:
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    y = parse("onebit").decode(parse("onebit").encode(x))
    for start in range(0, n, 1024):
        block = x[start : start + 1024]
        expected = torch.where(block >= 0, 1.0, -1.0) * block.abs().mean()
        torch.testing.assert_close(y[start : start + 1024], expected, rtol=1e-5, atol=0)


def test_a_single_value_is_exact() -> None:
    for value in (0.1, -3.7, 0.0):
        x = torch.tensor([value])
        assert torch.equal(parse("onebit").decode(parse("onebit").encode(x)), x)


def test_a_bad_value_spoils_its_own_block_only() -> None:
    x = torch.ones(3000)
    x[1500] = float("nan")
    y = parse("onebit").decode(parse("onebit").encode(x))
    assert y.isfinite().nonzero().view(-1).tolist() == [*range(1024), *range(2048, 3000)]


def test_the_first_value_is_the_highest_bit() -> None:
    x = torch.tensor([1.0, -1.0, 0.0, -1.0, -1.0, -1.0, -1.0, -1.0, 1.0])
    assert parse("onebit").encode(x).parts[1].tolist() == [0b10100000, 0b10000000]
