"""How a measured or declared speed weighs the cut of a pipeline."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from roadtrain.layout.assignment import stages_of
from roadtrain.layout.options import Batch, Options
from roadtrain.layout.speed import EVEN, relative, speeds_of
from roadtrain.layout.survey import survey
from roadtrain.plan import LayoutSpec
from roadtrain.recipes.transformer import Transformer


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def blocks_of(speeds: tuple[float, ...], blocks: int = 9, schedule: str = "gpipe") -> list[int]:
    """How many blocks each rank of a pipeline over devices of these speeds holds."""
    options = Options(spec=LayoutSpec(pp=len(speeds)), schedule=schedule, stage_speeds=speeds)
    model = Transformer(blocks, 32, 4)
    batch = (torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, 8, dtype=torch.int64))
    found = survey(model, loss_of, batch)
    found.cost[0] = found.cost[-1] = 0.0  # blocks alone
    held = stages_of(found, options, speeds_of(model, found, options), [f"blocks.{n}.up.weight" for n in range(blocks)])
    return [sum(ranks == (rank,) for ranks in held.values()) for rank in range(len(speeds))]


@pytest.mark.parametrize(
    ("speeds", "held"),
    [((1.0, 1.0, 1.0), [3, 3, 3]), ((2.0, 1.0), [6, 3]), ((1.0, 2.0), [3, 6]), ((4.0, 1.0, 1.0), [7, 1, 1])],
)
def test_a_device_twice_as_fast_has_about_twice_the_blocks(speeds: tuple[float, ...], held: list[int]) -> None:
    assert blocks_of(speeds) == held


def test_a_rank_with_two_stages_is_as_fast_in_both() -> None:
    first, second = blocks_of((2.0, 1.0), blocks=12, schedule="interleaved")
    assert (first, second) == (8, 4)


def test_the_slowest_of_a_stage_counts() -> None:
    assert relative([1.0, 1.0, 1.0, 2.0], 2) == (2.0, 1.0)
    assert relative([0.5, 2.0, 4.0, 1.0], 4) == (8.0, 2.0, 1.0, 4.0)


@given(st.lists(st.floats(1.0, EVEN * 0.99), min_size=2, max_size=8))
def test_what_is_nearly_even_is_even(seconds: list[float]) -> None:
    """Two starts on the same devices cut alike."""
    assert set(relative(seconds, len(seconds))) == {1.0}
