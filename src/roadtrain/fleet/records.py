"""What a coordinator has kept of a run in its database, read: while the run goes on, and when it is over."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

DATABASE = "coordinator.sqlite"
FIGURES = (
    "loss",
    "val_loss",
    "samples",
    "tokens",
    "compute_s",
    "sync_wait_s",
    "feed_wait_s",
    "bytes_sent",
    "staleness",
)
"""Of a line of metrics, what has a column: all that a chart shows."""
LINES_MAX = 50_000
"""Lines of metrics that a chart is made of; of more, every second, third, ..."""


def events_after(database: sqlite3.Connection, after: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
    """The first events after the one with id `after`, oldest first, each with its `id`."""
    rows = database.execute("SELECT id, line FROM events WHERE id > ? ORDER BY id LIMIT ?", (after, limit)).fetchall()
    return [{"id": number, **json.loads(line)} for number, line in rows]


def metrics_lines(database: sqlite3.Connection) -> Iterator[dict[str, Any]]:
    """Lines of metrics, oldest first, from the beginning to the end of the run; of many a part, evenly."""
    names = ("time_s", "worker", "step", *FIGURES)
    (newest,) = database.execute("SELECT COALESCE(MAX(id), 0) FROM metrics").fetchone()
    query = f"SELECT {', '.join(names)} FROM metrics WHERE id % ? = 0 ORDER BY id"
    for row in database.execute(query, (newest // LINES_MAX + 1,)):
        yield dict(zip(names, row, strict=True))


def read_events(folder: Path, after: int) -> list[dict[str, Any]]:
    """Events of the run in `folder`, as above; none where nothing can be read."""
    try:
        with closing(_open(folder)) as database:
            return events_after(database, after)
    except sqlite3.Error:
        return []


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """Lines of metrics of the run in `folder`, as above; none where nothing can be read."""
    try:
        with closing(_open(folder)) as database:
            return list(metrics_lines(database))
    except sqlite3.Error:
        return []


def _open(folder: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{(folder / DATABASE).absolute().as_uri()}?mode=ro", uri=True)
