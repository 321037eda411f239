"""Progress of a simulation that takes a while, on stderr: a bar over the steps of all workers where that is a terminal, else
a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PATIENCE_S = 2.0
"""A simulation that is done by then shows nothing."""
BAR_S = 0.1
"""Seconds between two states of the bar."""
LINES_S = (2.0, 60.0)
"""Seconds between two lines where there is no bar: they grow from the first to the second."""


class SimulationProgress:
    """Progress of one simulation. `steps`: of all workers."""

    def __init__(self, steps: int, *, quiet: bool) -> None:
        """`quiet`: a program reads what comes of it; nothing is said but on a terminal."""
        self._steps = steps
        self._began = time.monotonic()
        self._next = self._began + PATIENCE_S
        self._pause_s = LINES_S[0]
        self._task: TaskID | None = None
        self._bar = sys.stderr.isatty()
        self._lines = not (self._bar or quiet)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not self._bar)

    def __enter__(self) -> SimulationProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def watch(self, steps: int, virtual_s: float) -> None:
        """The simulation has come so far."""
        now = time.monotonic()
        if now < self._next:
            return
        if self._lines:
            self._pause_s = min(2 * self._pause_s, LINES_S[1])
            self._line(steps, virtual_s, now - self._began)
        elif self._bar:
            self._pause_s = BAR_S
            if self._task is None:
                self._progress.start()
                self._task = self._progress.add_task("", total=self._steps)
            self._progress.update(self._task, completed=steps, description=f"virtual time {virtual_s:,.1f} s")
        self._next = now + self._pause_s

    def _line(self, steps: int, virtual_s: float, took_s: float) -> None:
        share = steps / self._steps
        left = f", about {took_s / share - took_s:,.0f} s left" if 0 < share < 1 else ""
        said = f"{steps:,}/{self._steps:,} steps  virtual time {virtual_s:,.1f} s  {took_s:,.0f} s{left}"
        print(said, file=sys.stderr, flush=True)
