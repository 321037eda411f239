from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roadtrain.codec import parse, topk


@settings(max_examples=100, deadline=None)
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_the_selection_is_exact_and_ties_go_to_the_lower_index(data: st.DataObject, dtype: torch.dtype) -> None:
    values = data.draw(st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, -7.0, 1e-40]), min_size=1, max_size=60))
    k = data.draw(st.integers(1, len(values)))
    best = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))[:k]
    assert topk.largest(torch.tensor(values, dtype=dtype), k).tolist() == sorted(best)


@pytest.mark.parametrize("k", [1, 50, 2000, 60_000, 199_999])
@pytest.mark.parametrize("kind", ["gauss", "sorted", "few", "equal", "periodic"])
def test_the_sampled_threshold_changes_nothing(k: int, kind: str) -> None:
    n = 200_000
    x = torch.randn(n, generator=torch.Generator().manual_seed(0))
    if kind == "sorted":
        x = x.sort().values
    elif kind == "few":
        x[100:] = 0.0
    elif kind == "equal":
        x.fill_(3.0)
    elif kind == "periodic":
        x *= torch.arange(n) % 13 == 0
    chosen = topk.largest(x, k)
    assert torch.equal(chosen, chosen.unique())
    assert torch.equal(x[chosen].abs().sort().values, x.abs().sort().values[n - k :])


def test_a_nan_is_selected_before_an_infinity() -> None:
    x = torch.randn(300_000, generator=torch.Generator().manual_seed(0))
    x[123_456], x[7] = math.nan, math.inf
    assert topk.largest(x, 1).tolist() == [123_456]
    assert topk.largest(x, 2).tolist() == [7, 123_456]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 5), st.integers(250, 260), st.integers(0, 3000)), min_size=1, max_size=80))
def test_indices_survive_as_gaps(gaps: list[int]) -> None:
    indices = torch.tensor(gaps).add(1).cumsum(0).sub(1)
    section = topk.gaps_of(indices)
    assert torch.equal(topk.indices_of(section), indices)
    n = int(indices[-1]) + 1
    assert section.numel() <= len(gaps) + (n - len(gaps)) // 255


def test_topk_of_everything_is_exact_and_wants_no_feedback() -> None:
    codec = parse("topk:1.0")
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert not codec.biased
    assert torch.equal(codec.decode(codec.encode(x)), x)
    assert torch.equal(codec.decode(codec.encode(x.double() / 3)), x.double() / 3)
    assert parse("topk:1.0+int8").biased


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 2000), share=st.sampled_from(["0.01", "0.07", "0.5", "1e-6"]), seed=st.integers(0, 100))
def test_exactly_k_values_are_kept_as_they_are(n: int, share: str, seed: int) -> None:
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed)) + 10
    y = parse(f"topk:{share}").decode(parse(f"topk:{share}").encode(x))
    kept = y != 0
    assert int(kept.sum()) == max(1, math.ceil(Fraction(share) * n))
    assert torch.equal(y[kept], x[kept])
    assert (x[~kept].abs() <= x[kept].abs().min()).all()


def test_a_chain_writes_the_kept_values_with_its_second_codec() -> None:
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    kept = parse("topk:0.1").decode(parse("topk:0.1").encode(x))
    where = kept.nonzero().view(-1)
    for inner in ("bf16", "int8", "int4", "onebit"):
        chained = parse(f"topk:0.1+{inner}")
        expected = torch.zeros(5000)
        expected[where] = parse(inner).decode(parse(inner).encode(kept[where]))
        assert torch.equal(chained.decode(chained.encode(x)), expected)
