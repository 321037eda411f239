"""Progress of a simulation: steps done and the virtual time, on stderr, where that is a terminal and it takes a while."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PATIENCE_S = 2.0
"""A simulation that is done by then shows no bar."""


class SimulationProgress:
    """A bar over the steps of all workers."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._began = time.monotonic()
        self._task: TaskID | None = None
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())

    def __enter__(self) -> SimulationProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def watch(self, steps: int, virtual_s: float) -> None:
        """The simulation has come so far."""
        if self._task is None:
            if time.monotonic() - self._began < PATIENCE_S:
                return
            self._progress.start()
            self._task = self._progress.add_task("", total=self._steps)
        self._progress.update(self._task, completed=steps, description=f"virtual time {virtual_s:,.1f} s")
