"""A fleet at a glance, in tables that fit the terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from roadtrain.cli.link_matrix import LEGEND, link_matrix, machine_matrix

RUNS_SHOWN = 10


def show(said: Mapping[str, Any]) -> None:
    """Machines, runs, workers, regions and links."""
    console = Console(highlight=False)
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
        rows = [(r["run"], r["target"], str(r["workers"] or ""), r["status"], _ago(r["submitted"])) for r in runs]
        console.print(_table(("run", "target", "workers", "status", "begun"), rows))
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
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _ago(since: float) -> str:
    seconds = max(0, int(time.time() - since))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
