"""`rt.attach`: a session around a person's own loop, in a script that every worker runs.

    sync = rt.attach(model, optimizer, sync="diloco:50", codec="int8")
    for batch in sync.loader(dataset, batch_size=32, epochs=3):
        ...
    sync.finish()

The script runs in every worker of `roadtrain run`. Started by plain `python` it is a fleet of one, and computes what it would
without roadtrain.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import nn
from torch.optim import Optimizer

from roadtrain.codec import codecs_of
from roadtrain.errors import UsageError
from roadtrain.loop.attached import Attached, Fleet
from roadtrain.loop.clip import Clip
from roadtrain.loop.feeder_fleet import FeederFleet
from roadtrain.loop.fleet_of_one import FleetOfOne
from roadtrain.loop.fleet_worker import FleetWorker
from roadtrain.plan import (
    Link,
    Plan,
    SyncSpec,
    Tables,
    check_known,
    check_loggers,
    check_strategy,
    choose,
    differences,
    keys_of,
    layouts_of,
    refuse_unread,
    with_keywords,
    without_unread,
)
from roadtrain.plan.launcher import launched
from roadtrain.session.joining import Address, Terms
from roadtrain.session.worker_context import ScriptContext, this_feeder, this_worker
from roadtrain.sync.fragment import fragments_of
from roadtrain.sync.own_optimizer import specs_of
from roadtrain.sync.strategy import Aggregation, Payload, averaging, strategy_for


class _Here:
    """What this process has attached: one model."""

    attached: Attached | None = None


def attach(
    model: nn.Module, optimizer: Optimizer, *, plan: Plan | str | Path | None = None, **settings: object
) -> Attached:
    """Let the replicas of `model` agree from now on, and train it with `optimizer`, in a loop of the person's own.

    `settings` are the plan's, spelt as flags are: sync="diloco:50", codec="int8", outer_lr=0.7, clip=1.0. `plan`, a Plan or the
    path of a TOML file, wins over them, ROADTRAIN_* variables over both, and flags of `roadtrain run` over all.

    All workers begin with the weights of the first one. Raises UsageError for a setting that is none, a model or an optimizer
    that cannot be trained so, and a second call; RunFailed when the others do not come.
    """
    return attach_to(model, optimizer, plan, settings, written_out=True)


def attach_to(
    model: nn.Module,
    optimizer: Optimizer,
    plan: Plan | str | Path | None,
    settings: Mapping[str, object],
    *,
    written_out: bool,
    first_buffers: bool = False,
) -> Attached:
    """`attach`; `written_out`: the script has the loop itself, and not an `rt.Trainer`; `first_buffers`: in ssgd all have the
    first worker's buffers, and not their mean."""
    if _Here.attached is not None:
        raise UsageError("rt.attach was called before in this process", "one run trains one model: put several in one")
    _check_optimizer(model, optimizer)
    context = this_worker()
    chosen = _chosen(context, plan, written_out=written_out)
    merged = with_keywords(settings, chosen)
    _check_plan(merged)
    if context is not None:
        check_strategy(merged)
        if context.worker.slot == 0:  # beside whom the coordinator is
            check_loggers(merged.watch.log_to)
    said = keys_of(settings, chosen)
    refuse_unread(said, written_out=written_out)
    _check_device(merged, model)
    fleet = _fleet(model, optimizer, merged, context, first_buffers=first_buffers)
    _Here.attached = Attached(model, optimizer, merged, fleet, keys_of({}, chosen), said)
    return _Here.attached


def _check_device(plan: Plan, model: nn.Module) -> None:
    """A script puts its model where it likes, on the worker's own device if it names none by number."""
    kind, there = plan.place.device.partition(":")[0], next(model.parameters()).device
    if kind not in ("auto", there.type):
        raise UsageError(
            f"--device {plan.place.device}, and the script has its model on {there}", "move it, or leave --device out"
        )


def attached_here() -> Attached | None:
    """What this process has attached."""
    return _Here.attached


def finish_attached() -> bool:
    """At the end of a script: finish what it attached, and let the coordinator know. Returns whether it attached anything."""
    if _Here.attached is None:
        return False
    _Here.attached.end()
    return True


def _fleet(
    model: nn.Module, optimizer: Optimizer, plan: Plan, context: ScriptContext | None, *, first_buffers: bool
) -> Fleet:
    feeding = this_feeder()
    if feeding is not None:
        return FeederFleet(optimizer, Clip(optimizer, (), 0.0), feeding)
    if context is None:
        _refuse_several(os.environ)
        fragments_of(model, int(plan.sync.fragment_mb * 1e6))  # what cannot be trained by several is said here too
        clip = Clip(optimizer, model.parameters(), plan.optimizer.clip)
        return FleetOfOne(optimizer, clip, skips=plan.job.bad_samples == "skip")
    worker = context.worker
    terms = _terms(model, optimizer, plan, worker.slots)
    terms = replace(terms, first_buffers=first_buffers and terms.mean)
    link = Link.parse(plan.place.link) if plan.place.link else None
    address = Address(
        credentials=worker.credentials, host=worker.host, link=link, relay=worker.relay, listens=worker.listens
    )
    return FleetWorker(context, plan, model, optimizer, terms, address)


def _refuse_several(environment: Mapping[str, str]) -> None:
    """Raises UsageError where this script is one of several processes, which know nothing of each other."""
    world, found = environment.get("WORLD_SIZE"), launched(environment)
    if int(world) > 1 if world else found is not None:
        said = "WORLD_SIZE" if world or found is None else found.said
        raise UsageError(
            f"{said} is set, and this script was started without roadtrain: every process would train by itself",
            "start it with roadtrain run SCRIPT, also under torchrun: torchrun --no-python roadtrain run SCRIPT",
        )


def _terms(model: nn.Module, optimizer: Optimizer, plan: Plan, workers: int) -> Terms:
    strategy = strategy_for(plan)
    rounds = strategy.aggregation is Aggregation.ROUND
    mean = strategy.payload is Payload.GRADIENT and rounds and SyncSpec.parse(plan.sync.strategy).name == "ssgd"
    groups: Mapping[str, int] = {}
    if mean:
        strategy = averaging(strategy)
    elif strategy.payload is Payload.GRADIENT and SyncSpec.parse(plan.sync.strategy).own is None:
        strategy = replace(strategy, groups=specs_of(optimizer))
        groups = _groups(model, optimizer)
    return Terms(
        strategy=strategy,
        codecs=codecs_of(plan),
        owners=workers,
        fragment_bytes=int(plan.sync.fragment_mb * 1e6),
        mean=mean,
        groups=groups,
    )


def _groups(model: nn.Module, optimizer: Optimizer) -> dict[str, int]:
    """The number of the parameter group that each parameter is in."""
    number = {id(p): group for group, found in enumerate(optimizer.param_groups) for p in found["params"]}
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            if id(parameter) not in number:
                raise UsageError(
                    f"{name} requires a gradient, and is in no group of the optimizer", "freeze it or add it"
                )
            found[name] = number[id(parameter)]
    return found


def _check_optimizer(model: nn.Module, optimizer: Optimizer) -> None:
    """Raises UsageError unless the optimizer trains the model, and nothing else."""
    own = {id(parameter) for parameter in model.parameters()}
    given = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not any(id(parameter) in own for parameter in given):
        raise UsageError("the optimizer has none of the model's parameters", "make it of model.parameters()")
    if not all(id(parameter) in own for parameter in given):
        raise UsageError(
            "the optimizer has parameters that are not the model's, which would not be agreed on",
            "attach all of them: rt.attach(nn.ModuleList([model, other]), optimizer)",
        )


def _check_plan(plan: Plan) -> None:
    check_known(plan)
    spec = SyncSpec.parse(plan.sync.strategy)
    if spec.through == "allreduce" or layouts_of(plan):
        raise UsageError("layouts and ssgd:allreduce are for jobs", 'attach with sync="ssgd", which does the same')
    if plan.sync.backup and spec.name == "ssgd":
        raise UsageError(
            "backup would leave a worker without a mean that the others step with", 'use sync="localsgd:1"'
        )
    if plan.optimizer.name == "onebit-adam":
        raise UsageError("onebit-adam is an optimizer of jobs", "attach with an optimizer of torch.optim")


def _chosen(context: ScriptContext | None, plan: Plan | str | Path | None, *, written_out: bool) -> Tables:
    """What wins over the script's keywords."""
    said: dict[str, dict[str, object]] = {}
    if isinstance(plan, Plan):
        said = differences(plan)
    elif plan is not None:
        said = {section: dict(table) for section, table in choose("", [Path(plan)], {}, {}).items()}
    above: Tables = (
        choose("", [], os.environ, {})
        if context is None
        else without_unread(context.chosen, context.kept, written_out=written_out)
    )
    for section, table in above.items():
        said[section] = {**said.get(section, {}), **table}
    return said
