"""The coordinator's memory: events and metrics of a run in SQLite (a file, or ":memory:"), and as lines in the run's folder."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from roadtrain.errors import UsageError
from roadtrain.fleet.records import FIGURES, events_after, metrics_lines
from roadtrain.membership.ledger import LedgerLine
from roadtrain.report import finite

SCHEMA = """
CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, time_s REAL, event TEXT, worker TEXT, line TEXT);
CREATE TABLE IF NOT EXISTS metrics (id INTEGER PRIMARY KEY, time_s REAL, worker TEXT, step INTEGER, loss REAL);
"""
INSERT = f"INSERT INTO metrics (time_s, worker, step, {', '.join(FIGURES)}) VALUES (?, ?, ?{', ?' * len(FIGURES)})"
LEDGER = "ledger.jsonl"
"""There where the owner of fragment 0 gives out the work."""


def read_ledger(folder: Path) -> list[LedgerLine]:
    """The lines of the ledger in `folder`; one that was not written to its end is left out."""
    try:
        text = (folder / LEDGER).read_text(encoding="utf-8")
    except OSError:
        return []
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def write_ledger(folder: Path, lines: Iterable[LedgerLine]) -> None:
    """Put `lines` in place of those of the ledger in `folder`. Raises OSError."""
    partial = folder / f".{LEDGER}.partial"
    partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    partial.replace(folder / LEDGER)


class Store:
    """One writer, any number of readers on any thread. `folder` None: nothing is written but the database.

    A disk that is full ends no run: `broken` says why nothing is kept any more. What comes when it is closed is of no run.
    """

    def __init__(self, database: str, folder: Path | None) -> None:
        self.broken = ""
        self._closed = False
        self._lock = threading.Lock()
        self._ledger: TextIO | None = None
        self._ledger_path = None if folder is None else folder / LEDGER
        try:
            self._database = sqlite3.connect(database, check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.executescript(SCHEMA)
            self._add_columns()
            self._events = (
                (folder / "events.jsonl").open("a", buffering=1, encoding="utf-8") if folder is not None else None
            )
            self._metrics = (
                (folder / "metrics.jsonl").open("a", buffering=1, encoding="utf-8") if folder is not None else None
            )
        except (OSError, sqlite3.Error) as error:
            raise UsageError(f"cannot write to {folder or database} ({error})", "choose another --out") from error

    def _add_columns(self) -> None:
        """Of figures that an older version of roadtrain did not keep in a database that it has left."""
        known = {name for _, name, *_ in self._database.execute("PRAGMA table_info(metrics)")}
        for name in FIGURES:
            if name not in known:
                self._database.execute(f"ALTER TABLE metrics ADD COLUMN {name} REAL")

    def event(self, record: dict[str, Any]) -> None:
        """Keep one event. Numbers that are not finite become null: JSON has no others."""
        line = json.dumps(finite(record), allow_nan=False)
        with self._lock, self._until_it_breaks():
            if self._closed:
                return
            values = (record.get("time_s"), record["event"], record.get("worker"), line)
            self._database.execute("INSERT INTO events (time_s, event, worker, line) VALUES (?, ?, ?, ?)", values)
            if self._events is not None:
                self._events.write(line + "\n")

    def metric(self, record: dict[str, Any]) -> None:
        """Keep one line of a worker's metrics; as in `event`."""
        record = finite(record)
        with self._lock, self._until_it_breaks():
            if self._closed:
                return
            values = (record.get("time_s"), record["worker"], record["step"], *map(record.get, FIGURES))
            self._database.execute(INSERT, values)
            if self._metrics is not None:
                self._metrics.write(json.dumps(record, allow_nan=False) + "\n")

    def ledger(self, line: LedgerLine) -> None:
        """Keep one line of the ledger."""
        with self._lock, self._until_it_breaks():
            if self._ledger is None and self._ledger_path is not None and not self._closed:
                self._ledger = self._ledger_path.open("a", buffering=1, encoding="utf-8")
            if self._ledger is not None and not self._closed:
                self._ledger.write(json.dumps(line) + "\n")

    @contextmanager
    def _until_it_breaks(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            self.broken = self.broken or str(error)

    def events(self, after: int = 0) -> list[dict[str, Any]]:
        """Events after the one with id `after`, oldest first, each with its `id`."""
        with self._lock:
            return events_after(self._database, after)

    def quarantined(self) -> dict[str, str]:
        """Workers that were put out of the run and have not joined since, as they may where it was placed anew; and why."""
        found: dict[str, str] = {}
        query = "SELECT event, worker, line FROM events WHERE event IN ('joined', 'quarantined') ORDER BY id"
        with self._lock:
            for event, worker, line in self._database.execute(query):
                found.pop(worker, None)
                if event == "quarantined":
                    found[worker] = json.loads(line)["reason"]
        return found

    def metrics(self) -> list[dict[str, Any]]:
        """Lines of metrics so far, oldest first; of many a part."""
        with self._lock:
            return list(metrics_lines(self._database))

    def close(self) -> None:
        """Write out and close."""
        with self._lock:
            self._closed = True
            for file in (self._events, self._metrics, self._ledger):
                if file is not None:
                    with self._until_it_breaks():
                        file.close()
            with self._until_it_breaks():
                self._database.close()
