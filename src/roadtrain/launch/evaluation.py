"""What a finished run has learned, looked at again: its job makes the model, its folder has the weights."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from roadtrain.checkpoint.checkpoint import Checkpoints
from roadtrain.checkpoint.folder import MODEL, newest_whole, of_step, steps_in
from roadtrain.errors import RoadtrainError, RunFailed, UsageError
from roadtrain.launch.resumption import check_is_run, saved_plan
from roadtrain.launch.run_folder import refuse_in_use
from roadtrain.plan import Plan, Target
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
    plan = _plan_of(folder)
    if device is not None:
        plan = replace(plan, place=replace(plan.place, device=device))
    where = pick_device(plan.place.device)
    check_precision(plan.job.precision, where)
    weights = _weights_in(folder)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            task = make_task(plan)
            model = build_model(plan, task, where)
            _load(model, weights)
            model.eval()
            return Evaluation(held_out(task, model), weights)
    except RoadtrainError:
        raise
    except Exception as error:  # a job is any code
        raise RunFailed(f"{plan.job.target}: {told(error)}", "--debug shows where") from error


def _plan_of(folder: Path) -> Plan:
    """The plan of the run of a job. Raises UsageError where there is none."""
    check_is_run(folder, "give the --out of a run")
    plan = saved_plan(folder)
    if not plan.job.target or Target.parse(plan.job.target).is_script:
        raise UsageError(
            f"{folder} is a run of {plan.job.target or 'a script'}, which makes its model by itself: there is no job to ask",
            f"load {MODEL} in the script, and call trainer.validate",
        )
    file = Target.parse(plan.job.target).file
    if file is not None and not file.is_file():
        raise UsageError(f"{folder} is a run of {plan.job.target}, and that file is gone", f"put {file} back")
    return plan


def _weights_in(folder: Path) -> Path:
    """The exported weights, else the newest checkpoint of a run that was stopped. Raises UsageError."""
    if (folder / MODEL).is_file():
        return folder / MODEL
    refuse_in_use(folder)  # checkpoints of a run that goes on come and go
    if not steps_in(folder / "checkpoint"):
        raise UsageError(f"{folder} has neither {MODEL} nor a checkpoint", "let the run come to its end")
    step, wrong = newest_whole(folder / "checkpoint", 0)
    if wrong:
        raise UsageError(f"{folder}: {wrong[0]}", "remove that one, and the one before it is looked at")
    return of_step(folder / "checkpoint", step)


def _load(model: nn.Module, weights: Path) -> None:
    """Raises UsageError where the weights are damaged, or another model's."""
    if weights.is_dir():
        shared = Checkpoints(weights.parents[1], 1).load()
        _take(model, {**shared.rest, **shared.held()}, weights, whole=False)  # what is frozen the job makes again
        return
    try:
        found = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{weights} is damaged: {told(error)}", "train again, or copy it anew") from None
    _take(model, found, weights, whole=True)


@torch.no_grad()
def _take(model: nn.Module, values: Mapping[str, Tensor], weights: Path, *, whole: bool) -> None:
    own = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    wrong = [name for name in values if name not in own or own[name].shape != values[name].shape]
    taken = {own[name].data_ptr() for name in values if name in own}  # tied tensors are written once
    missing = [name for name, tensor in own.items() if tensor.numel() and tensor.data_ptr() not in taken]
    if wrong or (whole and missing):
        raise UsageError(
            f"{weights} is of another model than the job makes: {(wrong or missing)[0]} differs",
            "change the job back to what it was",
        )
    for name, tensor in values.items():
        own[name].copy_(tensor)
