"""A driver's run with a layout: what a job's plan has to say, which loader and optimizer say elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch.optim import Optimizer

from roadtrain.errors import UsageError
from roadtrain.notebook.loader_batches import LoaderBatches
from roadtrain.plan import AUTO, Tables, complete, layouts_of, seat_of
from roadtrain.sync.own_optimizer import specs_of
from roadtrain.sync.owner_optimizer import OptimizerSpec

TARGET = "roadtrain.driven.job:make"
HINT = "give SGD without Nesterov's momentum, or AdamW with its usual beta1 and eps, one group of parameters"


def has_layout(tables: Tables) -> bool:
    """Whether a replica is to be spread over workers. Raises UsageError for regions that are left open."""
    plan = complete(tables)
    if plan.layout.regions == AUTO:
        raise UsageError("--regions auto is for roadtrain run", "give the number of regions")
    return bool(layouts_of(plan))


def as_job(tables: Tables, optimizer: Optimizer, batches: LoaderBatches, epochs: int, folder: str) -> dict[str, Any]:
    """The tables of the job that trains so. Raises UsageError for an optimizer that no layout has, and for a number of batches
    that its ranks cannot share evenly."""
    size, plan = batches.take(0).samples, complete(tables)
    slots, total = seat_of(plan, 0).slots, batches.batches * epochs
    if total % slots:
        hint = "choose another batch size, or number of epochs"
        raise UsageError(f"{total} batches cannot be shared evenly by {slots} data-parallel ranks", hint)
    batches.all_of(size)
    job = {**tables.get("job", {}), "target": TARGET, "steps": total // slots, "batch": size}
    rule = {**tables.get("optimizer", {}), **_rule_of(optimizer)}
    return {**tables, "job": job, "optimizer": rule, "settings": {"folder": folder}}


def _rule_of(optimizer: Optimizer) -> dict[str, Any]:
    """The plan's words for it. Raises UsageError where it has none."""
    specs = specs_of(optimizer)
    spec = specs[0]
    found = {"name": spec.name, "lr": spec.lr, "momentum": spec.momentum, "weight_decay": spec.weight_decay}
    if spec.name == "adamw":
        found["beta2"] = spec.beta2
    if len(specs) > 1 or spec.name not in ("sgd", "adamw"):
        raise UsageError("this optimizer is none that a layout has", HINT)
    made = OptimizerSpec.from_plan(complete({"optimizer": found}))
    if replace(made, total=0, freeze=0, beta2=spec.beta2) != replace(spec, total=0, freeze=0):
        raise UsageError("this optimizer is none that a layout has", HINT)
    return found
