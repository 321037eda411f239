"""How workers are connected, from each to each, in a table of at most 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

SHOWN = 12
"""Workers that fit."""
LEGEND = "from row to column: round trip in ms (r: through the relay), MB/s below it"


def link_matrix(links: Sequence[Mapping[str, Any]]) -> Table | None:
    """The links of one run's workers. None where there are too many of them."""
    workers = sorted({link[end] for link in links for end in ("from", "to")}, key=lambda name: (len(name), name))
    if not 0 < len(workers) <= SHOWN:
        return None
    cells = {(link["from"], link["to"]): _cell(link) for link in links}
    table = Table(box=None, pad_edge=False, padding=(0, 0, 0, 1), header_style="bold")
    table.add_column("")
    for worker in workers:
        table.add_column(worker, justify="right", no_wrap=True)
    for one in workers:
        table.add_row(one, *(cells.get((one, other), "") for other in workers))
    return table


def _cell(link: Mapping[str, Any]) -> str:
    relayed = "r" if link["via"] == "relay" else ""
    return f"{_figure(link['rtt_ms'])}{relayed}\n{_figure(link['mb_per_s'])}"


def _figure(value: float | None) -> str:
    """At most four characters, so that a column takes no more than five with its mark."""
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 10 else f"{min(value, 9999):.0f}"
