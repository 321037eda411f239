"""The built-in jobs: real data without a download.

Purpose: something to train in the first minute, in the first lesson and in the tests.

Public names: `RECIPES` says which module makes which recipe; `defaults` gives a recipe's settings. Each module has
`make(plan)`, which returns a task: `build` the model, `batch` some samples by their numbers, the `loss` of a batch,
`validate` on held-out data, `sample` text where there is text to show.

Invariants: importing this package imports neither torch nor a recipe; a batch is a pure function of the plan and the
sample numbers, so every worker can make any of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from roadtrain.errors import UsageError, nearest

RECIPES: dict[str, str] = {
    "gpt": "roadtrain.recipes.gpt",
    "digits": "roadtrain.recipes.digits",
    "xor": "roadtrain.recipes.xor",
}
"""Recipe name to the module that makes it."""

DEFAULTS: dict[str, dict[str, dict[str, object]]] = {
    "gpt": {
        "job": {"steps": 1200, "batch": 8},
        "model": {"layers": 4, "width": 128, "heads": 4, "context": 128},
        "optimizer": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.1, "warmup": 50, "schedule": "cosine"},
    },
    "digits": {
        "job": {"steps": 100, "batch": 32},
        "optimizer": {"name": "sgd", "lr": 0.05},
    },
    "xor": {
        "job": {"steps": 100, "batch": 128},
        "optimizer": {"name": "adamw", "lr": 0.05},
    },
}
"""Recipe name to its settings, by section of the plan. Those of `gpt` suit two workers with a CPU core each."""


def defaults(name: str) -> Mapping[str, Mapping[str, object]]:
    """The settings that recipe `name` prefers, by section of the plan. Raises UsageError for an unknown recipe."""
    if name not in RECIPES:
        raise UsageError(f"there is no recipe '{name}'", nearest(name, RECIPES))
    return {**DEFAULTS[name], "job": {**DEFAULTS[name]["job"], "recipe": name}}
