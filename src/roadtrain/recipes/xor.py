"""The `xor` recipe, the teaching problem: no linear model can learn XOR, unless it also sees x1 * x2.

A sample has 200 features from N(0, 1); its label is (x1 > 0) xor (x2 > 0), and the other 198 are noise. The model is
linear in the features and x1 * x1, x2 * x2, x1 * x2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from roadtrain.errors import UsageError
from roadtrain.plan import Plan

if TYPE_CHECKING:
    from roadtrain.recipes.xor_task import Task

DEFAULTS = {
    "job": {"steps": 100, "batch": 128},
    "optimizer": {"name": "adamw", "lr": 0.05},
}


def make(
    plan: Plan, *, label_noise: Annotated[float, "share of labels that are wrong, from 0 to below 0.5"] = 0.0
) -> Task:
    """The task with the seed of `plan`."""
    from roadtrain.recipes.xor_task import Task

    return Task(plan.job.seed, label_noise)


def check(plan: Plan, settings: Mapping[str, Any]) -> None:
    """Raises UsageError for a share of wrong labels that leaves nothing to learn."""
    if not 0 <= settings["label_noise"] < 0.5:
        raise UsageError(f"--label-noise must be from 0 to below 0.5; it is {settings['label_noise']}")
