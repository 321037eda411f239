"""`roadtrain compare`: one job under several plans, side by side in one table, one page and a few figures."""

from __future__ import annotations

import functools
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from roadtrain.cli.arguments import Compare
from roadtrain.cli.interruption import stopping_at_once
from roadtrain.cli.run import check_with_torch, chosen_by
from roadtrain.cli.run_progress import RunProgress, show_notes
from roadtrain.cli.words import refuse_script
from roadtrain.errors import Interrupted, RunFailed, UsageError
from roadtrain.launch.comparison import FIRST_TO_GO, Comparison, Experiment, Variant
from roadtrain.launch.run_request import RunRequest, in_full, new_run_id
from roadtrain.plan import SyncSpec
from roadtrain.ray_cluster.asked import Asked, is_ray
from roadtrain.ray_cluster.cluster import connected
from roadtrain.report import Report, from_json

if TYPE_CHECKING:
    from roadtrain.launch.supervisor import Watcher

CarryOut = Callable[[RunRequest], Report]
REPORT = "report.json"
SYNC, CODEC = ("sync", "strategy"), ("codec", "up")
"""The settings that are compared."""
CURVE_LINES = 200
"""Lines of metrics that a worker writes, unless --log-every says otherwise: enough for a curve and its strips."""


def compare(command: Compare) -> int:
    """Carry out `roadtrain compare`; returns the exit code. Raises UsageError, RunFailed."""
    folder = in_full(command.out if command.out is not None else Path("runs") / f"compare-{new_run_id()}")
    with stopping_at_once():
        contest = make_contest(command, os.environ, folder)
        try:
            from roadtrain.cli.figures import draw
        except ImportError:
            raise UsageError(
                "compare draws with matplotlib, which is not installed", "pip install 'roadtrain[plots]'"
            ) from None
        for candidate in contest.candidates:
            check_with_torch(candidate.orders[0])
    if (folder / "comparison.json").exists():
        raise UsageError(f"{folder} holds a comparison already", "choose another --out")
    reports: list[list[Report]] = []
    with _carrying_out(command, contest) as carry_out:
        for number, candidate in enumerate(contest.candidates):
            print(f"plan {number + 1} of {len(contest.candidates)}: {candidate.name}", file=sys.stderr)
            show_notes(candidate.orders[0].plan, Console(stderr=True, highlight=False))
            reports.append([_run(order, carry_out) for order in candidate.orders])
    comparison = Comparison(contest, reports)
    figures = draw(comparison.results, folder, command.target_loss)
    _write(comparison, figures, folder)
    if command.json:
        print(json.dumps(comparison.as_dict(), indent=1))
    else:
        _show(comparison, folder)
    if failed := [result.name for result in comparison.results if result.failed]:
        raise RunFailed(
            f"{len(failed)} of {len(comparison.results)} plans failed: {', '.join(failed)}", "see above why"
        )
    return 0


def make_contest(command: Compare, environment: Mapping[str, str], folder: Path) -> Experiment:
    """Every plan that is to be run, checked before the first one begins. Raises UsageError."""
    if not command.virtual and (lost := [name for section, name in command.flags if section == "simulate"]):
        raise UsageError(f"--{lost[0].replace('_', '-')} is for virtual time", "add --virtual")
    if command.on and (command.virtual or not is_ray(command.on)):
        what = "virtual time is of this machine" if command.virtual else "compare runs on this machine or on Ray"
        raise UsageError(f"--on {command.on}: {what}", "leave it out" if command.virtual else "write --on ray")
    if command.seeds < 1:
        raise UsageError(f"--seeds must be at least 1; it is {command.seeds}")
    if command.virtual:
        refuse_script(command.target, "compare --virtual")
    candidates: list[Variant] = []
    plain = {key: value for key, value in command.flags.items() if key not in (SYNC, CODEC)}
    usual = RunRequest.of(chosen_by(command, environment, plain), None).plan
    syncs, codecs = _list(command, SYNC, usual.sync.strategy), _list(command, CODEC, usual.codec.up)
    for sync, codec in product(syncs, codecs):
        name = sync if codec == "none" else f"{sync} {codec}"
        if SyncSpec.parse(sync).through == "allreduce" and (codec != "none" or command.virtual):
            continue  # all-reduce is torch's: it has neither packets nor virtual time
        orders = [
            _order(command, environment, sync, codec, seed, folder / _file_name(name)) for seed in range(command.seeds)
        ]
        candidates.append(Variant(name, sync, codec, tuple(orders)))
    if not candidates:
        raise UsageError("nothing is left to compare: all-reduce has no codecs and no virtual time")
    return Experiment(
        str(command.target),
        shlex.join(("roadtrain", "compare", *command.words)),
        tuple(candidates),
        command.target_loss,
    )


def _list(command: Compare, key: tuple[str, str], usual: str) -> list[str]:
    """What the flag of `key` lists; without it, what the other sources say: one alone."""
    text = str(command.flags.get(key, usual))
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise UsageError(f"'{text}' names nothing to compare", "give one or more, with commas between them")
    return list(dict.fromkeys(found))


def _order(
    command: Compare, environment: Mapping[str, str], sync: str, codec: str, seed: int, folder: Path
) -> RunRequest:
    flags = {**command.flags, SYNC: sync, CODEC: codec}
    order = RunRequest.of(chosen_by(command, environment, flags), folder)
    if command.seeds > 1:
        first = order.plan.job.seed
        order = replace(order.changed("job", seed=first + seed), folder=order.folder / f"seed-{first + seed}")
    if "log_every" not in order.chosen.get("watch", {}) and not order.is_script:  # which knows its own number of steps
        order = order.changed("watch", log_every=max(1, order.plan.job.steps // CURVE_LINES))
    order.check()
    return order


def _file_name(name: str) -> str:
    """A folder's name for a plan: what shells and file systems dislike becomes a dash."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)


@contextmanager
def _carrying_out(command: Compare, contest: Experiment) -> Iterator[CarryOut]:
    """Around all runs: what carries out one, in virtual time, on Ray or here. Raises UsageError."""
    if command.virtual:
        yield functools.partial(_virtual, quiet=command.json)
    elif command.on:
        with connected(Asked.parse(command.on), contest.candidates[0].orders[0].plan) as cluster:
            from roadtrain.ray_cluster.run import run_on_ray

            yield functools.partial(_real, functools.partial(run_on_ray, cluster))
    else:
        from roadtrain.launch.local import run_local

        yield functools.partial(_real, run_local)


def _run(order: RunRequest, carry_out: CarryOut) -> Report:
    """One run. One that fails when it has begun has a report too, and the others go on.

    Raises RunFailed where there is none, and Interrupted after Ctrl-C.
    """
    try:
        report = carry_out(order)
    except RunFailed as error:
        if not (order.folder / REPORT).exists():
            raise
        print(f"failed: {error.line()}", file=sys.stderr)
        report = from_json((order.folder / REPORT).read_text(encoding="utf-8"))
    if report.status == "interrupted":
        raise Interrupted(f"stopped; {order.folder.parent} holds the runs that had ended")
    return report


def _real(run: Callable[[RunRequest, Watcher], Report], order: RunRequest) -> Report:
    screen = RunProgress(order, quiet=True)
    with screen:
        return run(order, screen.watch)


def _virtual(order: RunRequest, *, quiet: bool) -> Report:
    from roadtrain.cli.simulation_progress import SimulationProgress
    from roadtrain.launch.simulated_run import run_virtual

    with SimulationProgress(order.plan.job.steps * order.plan.place.workers, quiet=quiet) as clockface:
        return run_virtual(order, clockface.watch)


def _write(comparison: Comparison, figures: list[Path], folder: Path) -> None:
    from roadtrain.cli.html_report import page

    header, rows = comparison.table()
    title = f"{comparison.contest.target}: {len(rows)} plans side by side"
    made = f"{date.today()}, roadtrain {version('roadtrain')}, {platform.machine()} with {os.cpu_count()} processors"
    (folder / "comparison.json").write_text(json.dumps(comparison.as_dict(), indent=1), encoding="utf-8")
    (folder / "comparison.html").write_text(
        page(title, (comparison.contest.command, made), header, rows, figures), encoding="utf-8"
    )


def _show(comparison: Comparison, folder: Path) -> None:
    # A table in a file or a pipe is not cut.
    console = Console(highlight=False) if os.isatty(1) else Console(highlight=False, width=200)
    left_out, table = 0, _table(comparison, 0)
    while left_out < len(FIRST_TO_GO) and _width(console, table) > console.width:
        left_out += 1
        table = _table(comparison, left_out)
    console.print(table)
    console.print("x fewer: times fewer bytes than fp32 at every step; below 1, more")
    console.print(
        f"{'all columns, ' if left_out else ''}figures and a page: {folder / 'comparison.html'}",
        soft_wrap=True,
        markup=False,
    )


def _width(console: Console, table: Table) -> int:
    """Without a line break in any cell."""
    return console.measure(table, options=console.options.update(width=1000)).maximum


def _table(comparison: Comparison, left_out: int) -> Table:
    header, rows = comparison.table(left_out)
    table = Table(
        title=f"{comparison.contest.target}: plans side by side", box=SIMPLE, padding=(0, 1 if left_out else 2, 0, 0)
    )
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    return table
