"""Owners' snapshots become whole tensors, without a value that nobody agreed on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from roadtrain.checkpoint.assembly import assemble
from roadtrain.codec import parse
from roadtrain.errors import RunFailed
from roadtrain.message import Snapshot
from roadtrain.sync.fragment import Fragment, Piece

PLAIN = parse("none")
HALVES = [Fragment((Piece("w", begin, begin + 2),), torch.float32) for begin in (0, 2)]
LIKE = {"w": torch.zeros(4)}


def snapshot(number: int, **values: Tensor) -> Snapshot:
    packets = tuple((name.replace("_", "."), PLAIN.encode(value)) for name, value in values.items())
    return Snapshot(number, 0, 1, (), packets)


def theta(number: int) -> Tensor:
    return torch.tensor([1.0, 2.0]) + 2 * number


def test_a_tensor_that_is_cut_is_whole_again() -> None:
    model, published, rule = assemble([snapshot(n, theta=theta(n)) for n in range(2)], HALVES, LIKE)
    assert model["w"].tolist() == [1, 2, 3, 4]
    assert published == {}
    assert rule == {"w": {}}


def test_what_one_fragment_alone_has_is_filled_up() -> None:
    """Its other half has never been stepped, or published: its moments are zero, and it is held as it is."""
    first = snapshot(0, theta=theta(0), published=theta(0) + 0.5, rule_moment=torch.tensor([5.0, 6.0]))
    _, published, rule = assemble([first, snapshot(1, theta=theta(1))], HALVES, LIKE)
    assert published["w"].tolist() == [1.5, 2.5, 3, 4]
    assert rule["w"]["moment"].tolist() == [5, 6, 0, 0]


def test_a_tensor_with_a_hole_is_an_error() -> None:
    with pytest.raises(RunFailed, match="w has 5 values, and 4 of it were agreed on"):
        assemble([snapshot(n, theta=theta(n)) for n in range(2)], HALVES, {"w": torch.zeros(5)})
