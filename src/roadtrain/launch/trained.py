"""What a run has left: its job makes the model, its folder has the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from roadtrain.checkpoint.checkpoint import Checkpoints
from roadtrain.checkpoint.folder import MODEL, newest_whole, of_step, steps_in
from roadtrain.errors import UsageError
from roadtrain.launch.resumption import check_is_run, saved_plan
from roadtrain.launch.run_folder import refuse_in_use
from roadtrain.plan import Plan, Target
from roadtrain.plan.plugin import told

CHUNK_BYTES = 1 << 22


def plan_of(folder: Path, instead: str) -> Plan:
    """The plan of the run of a job. `instead`: what a script can call. Raises UsageError where there is none."""
    check_is_run(folder, "give the --out of a run")
    plan = saved_plan(folder)
    if not plan.job.target or Target.parse(plan.job.target).is_script:
        raise UsageError(
            f"{folder} is a run of {plan.job.target or 'a script'}, which makes its model by itself: there is no job to ask",
            f"load {MODEL} in the script, and call {instead}",
        )
    file = Target.parse(plan.job.target).file
    if file is not None and not file.is_file():
        raise UsageError(f"{folder} is a run of {plan.job.target}, and that file is gone", f"put {file} back")
    return plan


def weights_in(folder: Path) -> Path:
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


def load_weights(model: nn.Module, weights: Path) -> None:
    """Give `model` what `weights`, as `weights_in` says, hold. Raises UsageError where they are damaged, or another model's."""
    if weights.is_dir():
        shared = Checkpoints(weights.parents[1], 1).load()
        _take(model, {**shared.rest, **shared.held()}, weights, whole=False)  # what is frozen the job makes again
        return
    try:
        found = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{weights} is damaged: {told(error)}", "train again, or copy it anew") from None
    _take(model, found, weights, whole=True)


def fingerprint(place: Path) -> str:
    """A hash of a file's content, or of all files of a folder. Raises UsageError where one cannot be read."""
    digest = xxhash.xxh3_128()
    try:
        for file in [place] if place.is_file() else sorted(each for each in place.rglob("*") if each.is_file()):
            with file.open("rb") as opened:
                while chunk := opened.read(CHUNK_BYTES):
                    digest.update(chunk)
    except OSError as error:
        raise UsageError(f"{place} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


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
