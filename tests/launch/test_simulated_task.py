"""A task as a problem of a simulation: its fragments."""

from __future__ import annotations

import pytest

from roadtrain.launch.simulated_task import SimulatedTask
from roadtrain.plan import load
from roadtrain.trainer.task import make_task


@pytest.fixture(params=["gpt", "digits"])
def recipe(request: pytest.FixtureRequest) -> str:
    return request.param


def fragments(recipe: str, workers: int, most: int | None) -> list[int]:
    """Values in each fragment, for so many workers and at `most` so many contributions of all of them in one period."""
    plan = load(recipe, None, {}, {("place", "workers"): workers})
    problem = SimulatedTask(plan, make_task(plan), most)
    return [fragment.numel for fragment in problem.fragments]


@pytest.mark.parametrize("workers", [10, 100, 300, 1000, 3000])
def test_fragments_are_larger_where_there_would_be_too_many_contributions(recipe: str, workers: int) -> None:
    real, fewer = fragments(recipe, workers, None), fragments(recipe, workers, 1000)
    assert sum(fewer) == sum(real)
    most = max(1, 1000 // workers)
    assert min(len(real), most) / 2 < len(fewer) <= most
    assert (fewer == real) == (len(real) * workers <= 1000 or len(real) == 1)
