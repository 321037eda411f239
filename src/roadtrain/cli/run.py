"""`roadtrain run`: from the command line's words to a report on the screen."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from roadtrain.checkpoint.folder import SAME_MODEL
from roadtrain.cli.arguments import Compare, Flags, Run, Simulate
from roadtrain.errors import UsageError
from roadtrain.launch.process_server import start
from roadtrain.launch.rank import Rank
from roadtrain.launch.resumption import changed_since, left_behind, target_before
from roadtrain.launch.run_folder import refuse_in_use
from roadtrain.launch.run_request import RunRequest
from roadtrain.launch.verdict import interrupted
from roadtrain.plan import ROUNDING, SyncSpec, Tables, choose, keys_of, refuse_unseen
from roadtrain.report import Report, to_json

if TYPE_CHECKING:
    from roadtrain.cli.run_progress import RunProgress


def run(command: Run) -> int:
    """Carry out `roadtrain run`; returns the exit code. Raises UsageError, RunFailed."""
    rank = Rank.of(os.environ)
    order = make_order(command, os.environ, rank)
    leading = rank is None or rank.rank == 0
    if leading:
        start()  # it imports torch beside this process
    from roadtrain.cli.run_progress import RunProgress
    from roadtrain.cli.text_report import show

    check_with_torch(order)
    screen = RunProgress(order, quiet=command.json or not leading)
    changed = [] if order.resume is None else changed_since(order.folder, order.plan)
    try:
        with screen:
            report = _carry_out(order, rank, screen)
    except UsageError as error:
        if changed and error.hint == SAME_MODEL:
            error.hint = f"change it back: {'; '.join(changed)}"
        raise
    if report is None:
        return 0
    print(to_json(report)) if command.json else show(report)
    if report.status == "interrupted":
        raise interrupted(order)
    return 0


def _carry_out(order: RunRequest, rank: Rank | None, screen: RunProgress) -> Report | None:
    if rank is not None:
        from roadtrain.launch.spmd import run_spmd

        return run_spmd(rank, order, screen.watch, screen.words)
    from roadtrain.launch.local import run_local

    return run_local(order, screen.watch, screen.words)


def make_order(command: Run, environment: Mapping[str, str], rank: Rank | None) -> RunRequest:
    """The run that is wanted, checked. Raises UsageError."""
    if command.resume is None:
        order = RunRequest.of(chosen_by(command, environment, command.flags), command.out)
        refuse_unseen(order.plan, keys_of({}, order.chosen))
    else:
        order = _gone_on_with(command, command.resume, environment, leading=rank is None or rank.rank == 0)
    if rank is not None:
        if ("place", "workers") in command.flags and order.plan.place.workers != rank.world:
            named = f"--workers {order.plan.place.workers}"
            raise UsageError(f"{named}, but the launcher started {rank.world}", "leave it out")
        order = order.changed("place", workers=rank.world)
    order.check()
    return order


def chosen_by(command: Run | Simulate | Compare, environment: Mapping[str, str], flags: Flags) -> Tables:
    """What the sources say of a new run, with these flags. Raises UsageError."""
    files = [] if command.plan_file is None else [command.plan_file]
    return choose(command.target or "", files, environment, flags, command.arguments)


def _gone_on_with(command: Run, folder: Path, environment: Mapping[str, str], *, leading: bool) -> RunRequest:
    """The run in `folder`, with what is said now over what was said then. Who is not `leading` is told from where by who is."""
    target, arguments = target_before(folder)
    if command.out is not None and command.out.absolute() != folder.absolute():
        raise UsageError(f"--out {command.out}, but a run goes on in its own folder, {folder}", "leave --out out")
    if leading:
        refuse_in_use(folder)
    if command.target not in (None, target):
        raise UsageError(f"{folder} holds a run of {target}, not of {command.target}", "leave the TARGET out")
    files = [folder / "plan.toml", *([] if command.plan_file is None else [command.plan_file])]
    chosen = choose(target, files, environment, command.flags, command.arguments or arguments)
    order = RunRequest.of(chosen, folder)
    if not leading:
        return order
    order, wrong = order.from_newest()
    for damage in wrong:
        print(f"warning: {damage}; going on from step {order.resume}", file=sys.stderr)
    if not order.is_script and ("job", "steps") in command.flags and order.plan.job.steps < (order.resume or 0):
        raise UsageError(
            f"--steps {order.plan.job.steps}, and {folder} has {order.resume} already", "give more of them"
        )
    if not order.is_script and (left := left_behind(folder, order.plan)):
        print(f"warning: {left}", file=sys.stderr)
    if (begins := order.begins_at()) != order.resume:
        what = f"what workers had trained by themselves since step {begins} cannot go on in {order.plan.sync.strategy}"
        print(f"warning: {what}: beginning with step {begins}", file=sys.stderr)
    return order


def check_with_torch(order: RunRequest) -> None:
    """What `check` cannot know: raises UsageError for a codec or a strategy that is none, and for a device that is not there.
    Where all that the plan names is plain, there is nothing to look at: a driver without torch starts sooner, and is small."""
    if _is_plain(order):
        return
    from roadtrain.codec import codecs_of, pair
    from roadtrain.session.device import check_device
    from roadtrain.sync.strategy import strategy_for

    plan = order.plan
    if order.is_script:
        pair(plan.codec.up, plan.codec.down)
    else:
        codecs_of(plan)
        if not plan.simulate.cost_only:
            check_device(plan.place.device)
    strategy_for(plan)


def _is_plain(order: RunRequest) -> bool:
    """Whether a plan names codecs without an argument, a strategy that is built in, and no device."""
    plan = order.plan
    anywhere = order.is_script or plan.place.device in ("auto", "cpu")
    return (
        {plan.codec.up, plan.codec.down or "none"} <= {*ROUNDING}
        and anywhere
        and SyncSpec.parse(plan.sync.strategy).own is None
    )
