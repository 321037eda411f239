"""`roadtrain evaluate`: the figures of a run's model on its held-out samples."""

from __future__ import annotations

import json

from roadtrain.cli.interruption import stopping_at_once
from roadtrain.cli.model_arguments import Evaluate
from roadtrain.launch.run_request import in_full
from roadtrain.plan import settings
from roadtrain.report import finite


def evaluate(command: Evaluate) -> int:
    """Print the figures. Raises UsageError, RunFailed."""
    device = command.device
    if device is not None:
        settings()["place", "device"].from_text(device, "--device")
    with stopping_at_once():
        from roadtrain.launch import evaluation

        found = evaluation.evaluate(in_full(command.folder), device)
    if command.json:
        metrics = {name.removeprefix("val_"): value for name, value in found.figures.items() if name != "val_loss"}
        said = {"val_loss": found.figures["val_loss"], "metrics": metrics, "weights": str(found.weights)}
        print(json.dumps(finite(said), allow_nan=False))
        return 0
    for name, value in found.figures.items():
        print(f"{name} {value:.8g}")
    print(f"weights {found.weights}")
    return 0
