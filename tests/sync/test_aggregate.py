from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from table import ledger, strategy, vector
from torch import Tensor

from roadtrain.codec import Packet
from roadtrain.errors import PacketError
from roadtrain.message import Push
from roadtrain.sync.aggregate import aggregate
from roadtrain.sync.ledger import NONE, TensorLedger
from roadtrain.sync.owner_optimizer import OptimizerSpec, make_owner_optimizer
from roadtrain.sync.screen import KNOWN, Screen


def push(*values: float, weight: float = 1.0) -> Push:
    return Push(0, 1, 0, weight, NONE.encode(vector(*values)) if values else None)


def test_contributions_make_their_mean_by_weight() -> None:
    mean, refused = aggregate(ledger(strategy()), [("a", push(1, 0, 0, weight=3)), ("b", push(0, 4, 8))], Screen())
    assert mean is not None
    assert mean.tolist() == [0.75, 1, 2]
    assert not refused


@pytest.mark.parametrize("pushes", [[], [("a", push())], [("a", push(1, 2, 3, weight=0))]], ids=["none", "bare", "0"])
def test_who_only_takes_part_adds_nothing(pushes: list[tuple[str, Push]]) -> None:
    assert aggregate(ledger(strategy()), pushes, Screen()) == (None, {})


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (push(1, float("nan"), 1), "not finite"),
        (push(1, float("-inf"), 1), "not finite"),
        (push(1, 2), "2 "),
        (push(1, 1, 1, weight=float("nan")), "weight nan"),
        (push(1, 1, 1, weight=float("inf")), "weight inf"),
        (push(1, 1, 1, weight=-1), "weight -1"),
        (push(weight=-1), "weight -1"),
    ],
)
def test_the_bad_are_named_and_the_others_count(bad: Push, why: str) -> None:
    mean, refused = aggregate(
        ledger(strategy()), [("a", push(1, 2, 3)), ("b", bad), ("c", push(3, 2, 1)), ("d", bad)], Screen()
    )
    assert mean is not None
    assert mean.tolist() == [2, 2, 2]
    assert refused.keys() == {"b", "d"}
    assert all(why in said for said in refused.values())


def test_infinities_that_would_cancel_are_all_found() -> None:
    inf = float("inf")
    mean, refused = aggregate(ledger(strategy()), [("a", push(inf, 1, 1)), ("b", push(-inf, 1, 1))], Screen())
    assert mean is None
    assert refused.keys() == {"a", "b"}


def test_of_contributions_that_cannot_be_added_up_none_counts() -> None:
    class Overflowing(TensorLedger):
        def aggregate(self, packets: Sequence[Packet], weights: Sequence[float]) -> Tensor:
            if len(packets) > 1:
                raise PacketError("together too large")
            return super().aggregate(packets, weights)

    theta = torch.zeros(3, dtype=torch.float64)
    book = Overflowing(theta, make_owner_optimizer(OptimizerSpec(name="sgd"), theta), NONE, NONE, shared=True)
    mean, refused = aggregate(book, [("a", push(1, 2, 3)), ("b", push(3, 2, 1))], Screen())
    assert mean is None
    assert refused == {"a": "together too large", "b": "together too large"}


def test_one_that_is_far_from_usual_is_left_out_and_the_others_count() -> None:
    book, screen = ledger(strategy()), Screen()
    for _ in range(KNOWN):
        aggregate(book, [(name, push(1, 2, 3)) for name in "abcd"], screen)
    mad = [("a", push(1, 2, 3)), ("b", push(1e6, 2e6, 3e6)), ("c", push(3, 2, 1)), ("d", push(2, 2, 2))]
    mean, refused = aggregate(book, mad, screen)
    assert mean is not None
    assert mean.tolist() == [2, 2, 2]
    assert refused == {"b": "it is 1e+06 times as large as others"}
