"""Loggers that a run's figures can go to, by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from roadtrain.errors import UsageError

LOGGERS = ("tensorboard", "trackio", "wandb", "mlflow")
"""Each is the name of its package too."""


def check_loggers(names: Iterable[str]) -> None:
    """Raises UsageError for the first that is not installed. Imports none."""
    for name in names:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # a folder of that name is none, such as wandb leaves
            raise UsageError(f"{name} is not installed here", f"pip install {name}, or leave --log-to {name} out")
