"""Progress of a prediction that takes a while, on stderr: a bar where that is a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from roadtrain.cli.run_progress import duration
from roadtrain.launch.prediction import PredictSnapshot

PATIENCE_S = 2.0
"""A prediction that is done by then shows nothing."""
BAR_S = 0.1
"""Seconds between two states of the bar."""
LINES_S = (5.0, 60.0)
"""Seconds between two lines where there is no bar: they grow from the first to the second."""


class PredictProgress:
    """Progress of one prediction."""

    def __init__(self, *, quiet: bool) -> None:
        """`quiet`: a program reads what comes of it; nothing is said but on a terminal, and who was lost."""
        self._began = time.monotonic()
        self._next = self._began + PATIENCE_S
        self._line_s = LINES_S[0]
        self._lines = not quiet
        self._lost = 0
        self._first: tuple[float, int] | None = None
        self._console = Console(stderr=True, highlight=False)
        self._task: TaskID | None = None
        columns = (TextColumn("predicting"), BarColumn(None), TextColumn("{task.fields[figures]}"))
        self._progress = Progress(*columns, console=self._console, expand=True, disable=not sys.stderr.isatty())

    def __enter__(self) -> PredictProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def watch(self, now: PredictSnapshot) -> None:
        """So far it has come."""
        if now.lost > self._lost:
            self._lost = now.lost
            self._console.print(
                "a worker is lost; another is started, and its rows are asked of others", style="yellow"
            )
        clock = time.monotonic()
        self._first = self._first or (clock, now.rows)
        if clock < self._next:
            return
        if self._console.is_terminal:
            self._next = clock + BAR_S
            if self._task is None:
                self._progress.start()
                self._task = self._progress.add_task("", figures="")
            self._progress.update(self._task, total=now.of, completed=now.rows, figures=self._figures(now, clock))
        elif self._lines:
            self._next, self._line_s = clock + self._line_s, min(2 * self._line_s, LINES_S[1])
            self._console.print(self._figures(now, clock), soft_wrap=True)

    def _figures(self, now: PredictSnapshot, clock: float) -> str:
        """Rows, their rate since the first came, and the time that is left."""
        began, before = self._first or (clock, now.rows)
        shown = [f"{now.rows:,}/{now.of:,} rows", duration(clock - self._began)]
        if now.rows > before and clock > began:
            rate = (now.rows - before) / (clock - began)
            shown[1:] = [f"{rate:,.0f} rows/s", f"{shown[1]}, {duration((now.of - now.rows) / rate)} left"]
        return "  ".join(shown)
