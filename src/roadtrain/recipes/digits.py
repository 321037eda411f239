"""The `digits` recipe: scikit-learn's bundled 8x8 pictures of handwritten digits, and a small convolutional net."""

from __future__ import annotations

from typing import TYPE_CHECKING

from roadtrain.plan import Plan

if TYPE_CHECKING:
    from roadtrain.recipes.digits_task import Task

DEFAULTS = {
    "job": {"steps": 100, "batch": 32},
    "optimizer": {"name": "sgd", "lr": 0.05},
}


def make(plan: Plan) -> Task:
    """The task; `plan` changes nothing about it. Raises UsageError where scikit-learn is missing."""
    from roadtrain.recipes.digits_task import Task

    return Task()
