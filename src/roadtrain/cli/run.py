"""`roadtrain run`: from the command line's words to a report on the screen."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from roadtrain.checkpoint.folder import SAME_MODEL
from roadtrain.cli.arguments import FORMS, Compare, Flags, Run, Simulate
from roadtrain.cli.interruption import stopping_at_once
from roadtrain.errors import UsageError
from roadtrain.launch.process_server import start
from roadtrain.launch.rank import Rank
from roadtrain.launch.remote_folder import check_url, copy_to
from roadtrain.launch.resumption import changed_since, left_behind, target_before
from roadtrain.launch.run_folder import refuse_in_use
from roadtrain.launch.run_request import RunRequest, in_full
from roadtrain.launch.verdict import interrupted
from roadtrain.plan import (
    ROUNDING,
    SyncSpec,
    Tables,
    Target,
    check_loggers,
    choose,
    keys_of,
    outcomes,
    refuse_unseen,
    settings,
    without_unread,
)
from roadtrain.ray_cluster.asked import Asked, is_ray
from roadtrain.ray_cluster.cluster import connected
from roadtrain.report import Report, to_json

if TYPE_CHECKING:
    from roadtrain.launch.supervisor import Watcher
    from roadtrain.launch.words import Words
    from roadtrain.orchestrate.driver import Elsewhere

    CarryOut = Callable[[RunRequest, Watcher, Words], Report | None]


def run(command: Run) -> int:
    """Carry out `roadtrain run`; returns the exit code. Raises UsageError, RunFailed."""
    rank = Rank.of(os.environ)
    with stopping_at_once():
        order = make_order(command, os.environ, rank)
        if command.url:
            check_url(command.url)
        leading = rank is None or rank.rank == 0
        there = _elsewhere(command, rank)
        _check_loggers(order, leading=leading, fleet=bool(command.on) and not is_ray(command.on))
        if leading and there is None:
            start()  # it imports torch beside this process
        from roadtrain.cli.run_progress import RunProgress
        from roadtrain.cli.text_report import show

        check_with_torch(order)
        carry_out = _how(rank, there)
        changed = [] if order.resume is None else changed_since(order.folder, order.plan)
    screen = RunProgress(order, quiet=command.json or not leading)
    try:
        with screen, _copied(order.folder, command.url):
            report = carry_out(order, screen.watch, screen.words)
    except UsageError as error:
        if error.hint == SAME_MODEL:
            error.hint = _same_model(order, changed)
        raise
    if report is None:
        return 0
    print(to_json(report)) if command.json else show(report)
    if report.status == "interrupted":
        raise interrupted(order)
    return 0


@contextmanager
def _copied(folder: Path, url: str) -> Iterator[None]:
    """However a run ends, what it leaves behind is copied, if that is wanted."""
    try:
        yield
    finally:
        if url:
            copy_to(url, folder)


def _same_model(order: RunRequest, changed: list[str]) -> str:
    """What to do about a checkpoint that is of another model."""
    if changed:
        return f"change it back: {'; '.join(changed)}"
    return "change the model in the script back, or begin anew with another --out" if order.is_script else SAME_MODEL


def _elsewhere(command: Run, rank: Rank | None) -> Elsewhere | Asked | None:
    """The fleet or the Ray cluster that is to carry it out, if it is one. Raises UsageError."""
    if command.send and (not command.on or is_ray(command.on)):
        raise UsageError("--send is for --on TICKET: here all files are where they are", "leave it out")
    if not command.on:
        return None
    if rank is not None:
        raise UsageError(
            "--on says where workers are, and a launcher has started this process", "leave one of them out"
        )
    if is_ray(command.on):
        return Asked.parse(command.on)
    from roadtrain.orchestrate.driver import Elsewhere
    from roadtrain.orchestrate.ticket import Ticket

    workers = command.flags.get(("place", "workers"))
    return Elsewhere(ticket=Ticket.read(command.on), workers=workers, send=command.send)  # pyright: ignore[reportArgumentType]


def _check_loggers(order: RunRequest, *, leading: bool, fleet: bool) -> None:
    """Raises UsageError for a logger that is not here, where the coordinator is that logs."""
    if order.plan.watch.log_to and fleet:
        raise UsageError("--log-to is for runs that this machine coordinates", "leave it out: metrics.jsonl comes home")
    if leading:
        check_loggers(order.plan.watch.log_to)


def _how(rank: Rank | None, there: Elsewhere | Asked | None) -> CarryOut:
    """What carries out a run: here, on a fleet, on Ray, or as one rank of several."""
    if isinstance(there, Asked):
        return functools.partial(_run_on_ray, there)
    if there is not None:
        from roadtrain.orchestrate.driver import run_on

        return functools.partial(run_on, there)
    if rank is not None:
        from roadtrain.launch.spmd import run_spmd

        return functools.partial(run_spmd, rank)
    from roadtrain.launch.local import run_local

    return run_local


def _run_on_ray(asked: Asked, order: RunRequest, watcher: Watcher, words: Words) -> Report:
    with connected(asked, order.plan) as cluster:
        from roadtrain.ray_cluster.run import run_on_ray

        return run_on_ray(cluster, order, watcher, words)


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
    order.check(elsewhere=bool(command.on) and not is_ray(command.on))
    return order


def chosen_by(command: Run | Simulate | Compare, environment: Mapping[str, str], flags: Flags) -> Tables:
    """What the sources say of a new run, with these flags. Raises UsageError."""
    refuse_variables(command, environment)
    files = [] if command.plan_file is None else [command.plan_file]
    return choose(command.target or "", files, environment, flags, command.arguments)


def refuse_variables(command: Run | Simulate | Compare, environment: Mapping[str, str]) -> None:
    """Raises UsageError for a variable that is a setting of other commands: this one would not go by it."""
    virtual = isinstance(command, Simulate) or (isinstance(command, Compare) and command.virtual)
    name = type(command).__name__.lower()
    for row in (row for row in settings().values() if environment.get(row.variable)):
        if row.section == "simulate" and not virtual:
            raise UsageError(f"{row.variable} is for virtual time, and this run is real", "unset it")
        if not FORMS[name].reads(row):
            raise UsageError(f"roadtrain {name} does not go by {row.variable}", "unset it")


def _gone_on_with(command: Run, folder: Path, environment: Mapping[str, str], *, leading: bool) -> RunRequest:
    """The run in `folder`, with what is said now over what was said then. Who is not `leading` is told from where by who is."""
    target, arguments = target_before(folder)
    if command.out is not None and in_full(command.out) != in_full(folder):
        raise UsageError(f"--out {command.out}, but a run goes on in its own folder, {folder}", "leave --out out")
    if leading:
        refuse_in_use(folder)
    if command.target not in (None, target):
        raise UsageError(f"{folder} holds a run of {target}, not of {command.target}", "leave the TARGET out")
    order = _with_what_is_said_now(command, target, arguments, environment, folder)
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


def _with_what_is_said_now(
    command: Run, target: str, arguments: tuple[str, ...], environment: Mapping[str, str], folder: Path
) -> RunRequest:
    """Of a script, what the folder says and nothing goes by is dropped: the run may have begun when that was not yet refused."""
    refuse_variables(command, environment)
    before, now = [folder / "plan.toml"], [] if command.plan_file is None else [command.plan_file]
    chosen: Tables = choose(target, [*before, *now], environment, command.flags, command.arguments or arguments)
    kept = keys_of({}, chosen) - keys_of({}, choose(target, now, environment, command.flags))
    if target and Target.parse(target).is_script:
        chosen = without_unread(chosen, kept, written_out=False)
    return replace(RunRequest.of(chosen, folder), kept=frozenset(kept))


def check_with_torch(order: RunRequest) -> None:
    """What `check` cannot know: raises UsageError for a codec or a strategy that is none, and for a device that is not there.
    Where all that the plan names is plain, there is nothing to look at: a driver without torch starts sooner, and is small."""
    if _is_plain(order):
        return
    from roadtrain.codec import codecs_of, pair
    from roadtrain.session.device import check_device
    from roadtrain.sync.strategy import strategy_for

    plan = outcomes(order.plan)[-1]
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
