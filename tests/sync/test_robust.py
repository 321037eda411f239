"""What several contributions have in common does not go by any one of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from table import strategy, vector

from roadtrain.errors import PacketError
from roadtrain.sync.ledger import NONE, TensorLedger
from roadtrain.sync.owner_optimizer import OptimizerSpec, make_owner_optimizer
from roadtrain.sync.robust import CHUNK, central


@pytest.mark.parametrize(
    ("how", "columns", "expected"),
    [
        ("median", [1, 2, 9], 2),
        ("median", [1, 2, 4, 9], 3),
        ("trimmed", [1, 2, 9], 2),
        ("trimmed", [0, 2, 4, 100], 3),
        ("trimmed", [-100, 1, 2, 3, 4, 5, 6, 100], 3.5),
    ],
)
def test_the_middle_of_each_number(how: str, columns: list[float], expected: float) -> None:
    rows = [vector(float(value), float(-value)) for value in columns]
    assert central(rows, how).tolist() == [expected, -expected]


def test_who_is_far_away_is_drawn_in_and_the_others_are_not() -> None:
    near = [vector(1.0, 0.0), vector(-1.0, 0.0), vector(0.0, 1.0), vector(0.0, -1.0)]
    assert central(near, "clip").tolist() == [0.0, 0.0]
    moved = central([*near, vector(1e6, 0.0)], "clip")
    assert moved[0] <= 3 * 1.2 / 5, "three times, by no more than a fifth of the usual distance"
    assert central([vector(2.0)] * 3, "clip").tolist() == [2.0]


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=7))
def test_clipping_agrees_on_what_does_not_differ_in_more_than_the_order_of_a_sum(values: list[float]) -> None:
    rows = [vector(value, 1.0) for value in values]
    nudged = [row * (1 + 1e-12) for row in rows]
    one, other = central(rows, "clip"), central(nudged, "clip")
    assert torch.allclose(one, other, atol=0.2)
    assert min(values) - 1e-9 <= float(one[0]) <= max(values) + 1e-9


@given(st.permutations([0.5, 1.0, 1.5, 2.0, 1e30]), st.sampled_from(["median", "trimmed"]))
def test_one_that_lies_moves_it_within_what_the_others_say(values: list[float], how: str) -> None:
    assert 0.5 <= float(central([vector(value) for value in values], how)) <= 2.0


def test_more_numbers_than_are_sorted_at_once() -> None:
    rows = [torch.randn(CHUNK + 3, generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
    assert torch.equal(central(rows, "median"), torch.stack(rows).median(dim=0).values)


def book(how: str) -> TensorLedger:
    theta = torch.zeros(2, dtype=torch.float64)
    rule = make_owner_optimizer(OptimizerSpec(name="sgd"), theta)
    return TensorLedger(theta, rule, NONE, NONE, shared=True, robust=how)


def test_a_ledger_goes_by_it_whatever_the_weights_and_takes_the_mean_of_two() -> None:
    packets = [NONE.encode(vector(*values)) for values in ((1, 1), (2, 2), (-50, 600))]
    assert book("median").aggregate(packets, [1, 1, 1000]).tolist() == [1, 2]
    assert book("median").aggregate(packets[:2], [1, 3]).tolist() == [1.75, 1.75]
    assert strategy().robust == "none"


def test_what_is_not_finite_is_refused_and_not_trimmed_away() -> None:
    packets = [NONE.encode(vector(*values)) for values in ((1, 1), (2, 2), (float("nan"), 3))]
    with pytest.raises(PacketError, match="not finite"):
        book("trimmed").aggregate(packets, [1, 1, 1])
