"""`roadtrain run`: from the command line's words to a report on the screen."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from roadtrain.cli.arguments import Run
from roadtrain.errors import Interrupted, UsageError, nearest
from roadtrain.launch.rank import Rank
from roadtrain.launch.run_request import RunRequest, check_resumable, new_run_id, open_folder
from roadtrain.plan import Plan, absolute, as_dict, check, load, parse
from roadtrain.recipes import RECIPES, defaults
from roadtrain.report import Report, to_json

if TYPE_CHECKING:
    from roadtrain.cli.run_progress import RunProgress


def run(command: Run) -> int:
    """Carry out `roadtrain run`; returns the exit code. Raises UsageError, RunFailed."""
    rank = Rank.of(os.environ)
    order = make_order(command, os.environ, rank)
    from roadtrain.cli.run_progress import (
        RunProgress,  # from here on torch is imported: after all that needs none is checked
    )
    from roadtrain.cli.text_report import show

    check_with_torch(order.plan)
    leading = rank is None or rank.rank == 0
    if leading:
        open_folder(order.folder, order.plan, resume=order.resume)
    screen = RunProgress(order, quiet=command.json or not leading)
    with screen:
        report = _carry_out(order, rank, screen)
    if report is None:
        return 0
    print(to_json(report)) if command.json else show(report)
    if report.status == "interrupted":
        if not any((order.folder / "checkpoint").glob("step-*")):
            raise Interrupted("stopped before there was anything to save")
        raise Interrupted(
            f"stopped; {order.folder} holds a checkpoint", f"go on with: roadtrain run --resume {order.folder}"
        )
    return 0


def _carry_out(order: RunRequest, rank: Rank | None, screen: RunProgress) -> Report | None:
    if rank is not None:
        from roadtrain.launch.spmd import run_spmd

        return run_spmd(rank, order, screen.watch)
    from roadtrain.launch.local import run_local

    return run_local(order, screen.watch)


def make_order(command: Run, environment: Mapping[str, str], rank: Rank | None) -> RunRequest:
    """The run that is wanted, checked. Raises UsageError."""
    plan = _plan(command, environment)
    if rank is not None:
        if ("place", "workers") in command.flags and plan.place.workers != rank.world:
            raise UsageError(f"--workers {plan.place.workers}, but the launcher started {rank.world}", "leave it out")
        plan = replace(plan, place=replace(plan.place, workers=rank.world))
    check(plan)
    identity = new_run_id()
    folder = (
        command.resume
        if command.resume is not None
        else command.out
        if command.out is not None
        else Path("runs") / identity
    )
    return RunRequest(identity, plan, RECIPES[plan.job.recipe], folder.absolute(), command.resume is not None)


def _plan(command: Run, environment: Mapping[str, str]) -> Plan:
    if command.resume is not None:
        check_resumable(command.resume)
        return load(_plan_before(command.resume / "plan.toml"), command.plan_file, environment, command.flags)
    return new_plan(command.target or "", command.plan_file, environment, command.flags)


def new_plan(
    target: str, file: Path | None, environment: Mapping[str, str], flags: Mapping[tuple[str, str], object]
) -> Plan:
    """The plan of a new run of the recipe `target`, not checked. Raises UsageError."""
    if target not in RECIPES:
        raise UsageError(f"unknown recipe '{target}'", nearest(target, RECIPES))
    plan = load(defaults(target), file, environment, {**flags, ("job", "recipe"): target})
    codec = replace(plan.codec, up=absolute(plan.codec.up), down=absolute(plan.codec.down))
    return replace(plan, codec=codec, sync=replace(plan.sync, strategy=absolute(plan.sync.strategy)))


def check_with_torch(plan: Plan) -> None:
    """What `check` cannot know: raises UsageError for a codec or a strategy of one's own that is none. Imports torch."""
    from roadtrain.codec import codecs_of
    from roadtrain.sync.strategy import strategy_for

    codecs_of(plan)
    strategy_for(plan)


def _plan_before(path: Path) -> dict[str, dict[str, object]]:
    """The settings of the run that is resumed."""
    try:
        return as_dict(parse(path.read_text()))
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", error.hint) from error
