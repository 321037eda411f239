"""What a person says of a run in Python: a plan or a config, and keywords; and what the environment says besides."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from roadtrain.errors import UsageError, nearest
from roadtrain.notebook.config import DistributedConfig
from roadtrain.plan import Plan, Tables, choose, complete, differences, settings

LOADER = "the loader that start_training is given says it"
REFUSED: Mapping[tuple[str, str], str] = {
    ("job", "batch"): LOADER,
    ("job", "steps"): "start_training(loader, num_epochs=) says how long",
    ("job", "bad_samples"): LOADER,
    ("job", "order"): LOADER,
    ("place", "feeders"): "the loader loads here; give it num_workers=",
    ("place", "straggler"): "it slows the steps of a recipe or a job",
}
"""What an orchestrator does not go by, and who says it."""
OF_OPTIMIZER = ("name", "lr", "momentum", "weight_decay", "beta2")
"""What the optimizer is made of, where the person gives none."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was said, by section. `optimizer`: what of it an optimizer is made of, and `said` whether a person has said that who
    may have given one too. `folder`: of the run; None for a new one."""

    tables: Tables
    optimizer: Mapping[str, Any]
    said: bool
    folder: Path | None

    @classmethod
    def of(
        cls,
        plan: Plan | DistributedConfig | str | Path | None,
        keywords: Mapping[str, object],
        out: str | Path | None,
    ) -> Choice:
        """Raises UsageError for a keyword that is none, and for a setting that an orchestrator does not go by."""
        config = plan if isinstance(plan, DistributedConfig) else None
        rows = {row.keyword: row for row in settings().values() if row.section != "simulate"}
        own: dict[str, dict[str, Any]] = {}
        for name, value in keywords.items():
            if name not in rows:
                raise UsageError(f"there is no keyword {name}", nearest(name, rows))
            row = rows[name]
            value = [value] if row.many and isinstance(value, str) else value
            own.setdefault(row.section, {})[row.name] = row.accept(value, name)
        if isinstance(plan, Plan):
            own = merged(own, differences(plan))
        elif plan is not None and config is None:
            own = merged(own, choose("", [Path(plan)], {}, {}))  # pyright: ignore[reportArgumentType]
        own = merged(own, choose("", [], os.environ, {}))
        tables = own if config is None else merged(_of_config(config), own)
        for key, who in REFUSED.items():
            if key[1] in tables.get(key[0], {}):
                raise UsageError(f"{settings()[key].label} changes nothing here", who)
        taken = {name: value for name, value in tables.get("optimizer", {}).items() if name in OF_OPTIMIZER}
        left = {name: value for name, value in tables.get("optimizer", {}).items() if name not in OF_OPTIMIZER}
        said = any(name in OF_OPTIMIZER for name in own.get("optimizer", {}))
        rest = {section: table for section, table in {**tables, "optimizer": left}.items() if table}
        folder = out or (config.checkpoint_dir if config is not None else "")
        return cls(rest, taken, said, Path(folder) if folder else None)

    @property
    def workers(self) -> int | None:
        """How many are to train; None where nobody says."""
        return self.tables.get("place", {}).get("workers")  # pyright: ignore[reportReturnType]

    def make_optimizer(self, model: nn.Module) -> Optimizer:
        """AdamW, or what was said."""
        plan = complete({"optimizer": dict(self.optimizer)}).optimizer
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if plan.name == "sgd":
            return torch.optim.SGD(trained, plan.lr, plan.momentum, weight_decay=plan.weight_decay)
        if plan.name != "adamw":
            raise UsageError(f"{plan.name} is an optimizer of jobs", "give register_model an optimizer of torch.optim")
        return torch.optim.AdamW(trained, plan.lr, (0.9, plan.beta2), weight_decay=plan.weight_decay)


def merged(below: Tables, above: Tables) -> dict[str, dict[str, Any]]:
    """Both, `above` over `below`, less the target, which is ours to say."""
    found = {section: {**below.get(section, {}), **above.get(section, {})} for section in {**below, **above}}
    for name in ("target", "arguments"):
        found.get("job", {}).pop(name, None)
    return {section: table for section, table in found.items() if table}


def _of_config(config: DistributedConfig) -> dict[str, dict[str, Any]]:
    """What a config says, in a plan's words."""
    log_every = {"log_every": config.log_step_every} if config.log_step_every else {}
    found: dict[str, dict[str, Any]] = {
        "optimizer": {
            "lr": config.learning_rate,
            "weight_decay": config.weight_decay,
            "clip": config.max_grad_norm,
        },
        "watch": {"checkpoint_every": config.save_interval, **log_every},
        "job": {"precision": "bf16"} if config.use_amp else {},
        "layout": _layout_of(config),
    }
    if {"num_workers", "world_size"} & config.said:
        found["place"] = {"workers": max(1, config.num_workers)}
    return {section: table for section, table in found.items() if table}


def _layout_of(config: DistributedConfig) -> dict[str, Any]:
    """How its flags spread a replica. Raises UsageError where the numbers do not fit."""
    workers, parts = max(1, config.num_workers), list[str]()
    tensor = config.tensor_parallel_size if config.tensor_parallel else 1
    if config.tensor_parallel and tensor == 1:
        tensor = workers
    if workers % tensor:
        raise UsageError(f"tensor_parallel_size={tensor} does not divide {workers} workers", "change one of them")
    left = workers // tensor
    if (config.pipeline_parallel or config.model_parallel) and left > 1:
        stages = 2 if config.data_parallel and "data_parallel" in config.said and left % 2 == 0 else left
        parts.append(f"{'pp' if config.pipeline_parallel else 'mp'}:{stages}")
        left //= stages
    if left > 1 and (parts or tensor > 1):
        parts.append(f"dp:{left}")
    if tensor > 1:
        parts.append(f"tp:{tensor}")
    if not parts:
        return {}
    micro = {"micro_batches": config.micro_batches} if config.pipeline_parallel and config.micro_batches > 1 else {}
    return {"spread": (",".join(parts),), **micro}
