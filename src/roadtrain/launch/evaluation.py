"""What a finished run has learned, looked at again."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from roadtrain.errors import RoadtrainError, RunFailed
from roadtrain.launch.trained import load_weights, plan_of, weights_in
from roadtrain.plan.plugin import told
from roadtrain.session.device import check_precision, pick_device
from roadtrain.trainer.job import build_model
from roadtrain.trainer.task import held_out, make_task


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`figures`: `val_loss` and others by name, as the run's report has them. `weights`: the file or the checkpoint that they
    are of."""

    figures: dict[str, float]
    weights: Path


def evaluate(folder: Path, device: str | None) -> Evaluation:
    """Look at the held-out samples with the model of the run in `folder`; on the run's device where none is said.

    Raises UsageError where there is no such run, it is a script's, its job cannot be read, or its weights are damaged, and
    RunFailed for what the job's own code raises. What that prints goes to stderr.
    """
    plan = plan_of(folder, "trainer.validate")
    if device is not None:
        plan = replace(plan, place=replace(plan.place, device=device))
    where = pick_device(plan.place.device)
    check_precision(plan.job.precision, where)
    weights = weights_in(folder)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            task = make_task(plan)
            model = build_model(plan, task, where)
            load_weights(model, weights)
            model.eval()
            return Evaluation(held_out(task, model), weights)
    except RoadtrainError:
        raise
    except Exception as error:  # a job is any code
        raise RunFailed(f"{plan.job.target}: {told(error)}", "--debug shows where") from error
