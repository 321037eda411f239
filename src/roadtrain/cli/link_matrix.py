"""How workers, or machines, are connected, from each to each, in a table of at most 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

SHOWN = 12
"""Of them that fit."""
NAME_MAX = 14
"""Letters of a machine's name that fit beside so many."""
LEGEND = "from row to column: round trip in ms (r: through the relay), MB/s below it"


def link_matrix(links: Sequence[Mapping[str, Any]]) -> Table | None:
    """The links of one run's workers. None where there are too many of them."""
    workers = sorted({link[end] for link in links for end in ("from", "to")}, key=lambda name: (len(name), name))
    return _matrix(workers, workers, workers, links)


def machine_matrix(links: Sequence[Mapping[str, Any]]) -> Table | None:
    """The links of machines, which have numbers in the columns. None where there are too many of them."""
    machines = list(dict.fromkeys(link["from"] for link in links))
    numbers = [str(number) for number, _ in enumerate(machines, 1)]
    heads = [f"{number} {machine[:NAME_MAX]}" for number, machine in zip(numbers, machines, strict=True)]
    return _matrix(machines, heads, numbers, links)


def _matrix(
    names: Sequence[str], rows: Sequence[str], columns: Sequence[str], links: Sequence[Mapping[str, Any]]
) -> Table | None:
    if not 0 < len(names) <= SHOWN:
        return None
    cells = {(link["from"], link["to"]): _cell(link) for link in links}
    table = Table(box=None, pad_edge=False, padding=(0, 0, 0, 1), header_style="bold")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for one, row in zip(names, rows, strict=True):
        table.add_row(row, *(cells.get((one, other), "") for other in names))
    return table


def _cell(link: Mapping[str, Any]) -> str:
    relayed = "r" if link["via"] == "relay" else ""
    return f"{_figure(link['rtt_ms'])}{relayed}\n{_figure(link['mb_per_s'])}"


def _figure(value: float | None) -> str:
    """At most four characters, so that a column takes no more than five with its mark."""
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 10 else f"{min(value, 9999):.0f}"
