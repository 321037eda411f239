"""A fleet at a glance, in tables that fit the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from roadtrain.cli.link_matrix import LEGEND, link_matrix, machine_matrix

RUNS_SHOWN = 10


def show(said: Mapping[str, Any]) -> None:
    """Machines, runs, workers, regions and links."""
    _show(said, Console(highlight=False))


def show_live(ask: Callable[[], Mapping[str, Any]], every_s: float) -> NoReturn:
    """The same in place, again and again, as far as the terminal has room; until an exception comes."""
    with Live(console=Console(highlight=False), auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            said = ask()
            drawn = Console(highlight=False, width=live.console.width, force_terminal=True)
            with drawn.capture() as capture:
                _show(said, drawn)
            lines = capture.get().splitlines()[: live.console.height - 1]
            live.update(Text.from_ansi("\n".join(lines)), refresh=True)
            time.sleep(every_s)


def show_runs(runs: Sequence[Mapping[str, Any]]) -> None:
    """All runs, the newest last."""
    console = Console(highlight=False)
    if not runs:
        console.print("no run yet: roadtrain run TARGET --on TICKET")
    else:
        console.print(_runs(runs))


def _runs(runs: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (
            run["run"],
            _short(run["target"]),
            str(run["workers"] or ""),
            run["status"],
            "" if run.get("step") is None else _progress(run),
            "" if run.get("loss") is None else f"{run['loss']:.3f}",
            _ago(run["submitted"]),
        )
        for run in runs
    ]
    return _table(("run", "target", "workers", "status", "step", "loss", "begun"), rows)


def _progress(run: Mapping[str, Any]) -> str:
    """A script's number of steps is its own."""
    return str(run["step"]) if run["steps"] is None else f"{run['step']} of {run['steps']}"


def _short(target: str) -> str:
    """Without the folder that a file is in."""
    return target if target.startswith("-m ") else target.rpartition("/")[2]


def _show(said: Mapping[str, Any], console: Console) -> None:
    machines = said["machines"]
    if not machines:
        console.print("no machine has joined yet: roadtrain join TICKET on each")
    else:
        rows = [
            (
                m["machine"],
                m["host"],
                f"{m['devices']} {m['kind']}",
                "any" if m["takes_code"] else "recipes",
                m["state"],
            )
            for m in machines
        ]
        console.print(_table(("machine", "host", "devices", "code", "state"), rows))
    if len(machines) > 1:
        _show_ways(said, console)
    runs = said["runs"][-RUNS_SHOWN:]
    if runs:
        console.print(_runs(runs))
        for run in runs:
            if run["status"] == "running" and run.get("bottleneck"):
                console.print(f"{run['run']}: {run['bottleneck']}", markup=False)
    if said["workers"]:
        rows = [(w["run"], w["id"], w["machine"], str(w["step"]), w["state"]) for w in said["workers"]]
        console.print(_table(("run", "worker", "machine", "step", "state"), rows))
    if said["regions"]:
        rows = [(r["run"], r["region"], " ".join(r["workers"])) for r in said["regions"]]
        console.print(_table(("run", "region", "workers"), rows))
    for run in dict.fromkeys(link["run"] for link in said["links"]):
        matrix = link_matrix([link for link in said["links"] if link["run"] == run])
        if matrix is not None:
            console.print(LEGEND)
            console.print(matrix)


def _show_ways(said: Mapping[str, Any], console: Console) -> None:
    """Which machines are near each other, and the ways between them, as far as these were measured."""
    if not said["machine_links"]:
        return
    rows = [(region["region"], " ".join(region["machines"])) for region in said["machine_regions"]]
    console.print(_table(("region", "machines"), rows))
    matrix = machine_matrix(said["machine_links"])
    if matrix is not None:
        console.print(LEGEND)
        console.print(matrix)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head, overflow="fold", no_wrap=head == "run")  # it is copied, whole
    for row in rows:
        table.add_row(*row)
    return table


def _ago(since: float) -> str:
    seconds = max(0, int(time.time() - since))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
