"""A run's figures on their way to loggers: those of its first living worker, from the coordinator, on a thread of their own, so
that a logger that is slow, or fails, holds nobody up."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from roadtrain.launch.loggers import ADAPTERS, Logger
from roadtrain.plan.plugin import told

WAITING_MAX = 10_000
"""Lines that may wait; further ones are left out."""
LAST_S = 30.0
"""How long what still waits at the end may take."""
NO_FIGURES = ("step", "time_s")
Line = tuple[int, Mapping[str, float]]


class RunLoggers:
    """`warnings`: where it is said that one of them fails; the others go on, and so does the run."""

    def __init__(
        self, names: Sequence[str], run: str, folder: Path, config: Mapping[str, Any], warnings: list[str]
    ) -> None:
        self._loggers: dict[str, Logger] = {name: ADAPTERS[name]() for name in names}
        self._begin = run, folder, config
        self._warnings = warnings
        self._lines: queue.Queue[Line | None] = queue.Queue(WAITING_MAX)
        self._thread: threading.Thread | None = None
        self._last = 0

    def log(self, record: Mapping[str, Any]) -> None:
        """A line of metrics, with its step. Figures that are not finite are left out."""
        figures = {
            name: float(value)
            for name, value in record.items()
            if name not in NO_FIGURES and isinstance(value, int | float) and math.isfinite(value)
        }
        self._last = int(record.get("step", self._last))
        if not figures:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._carry, name="loggers", daemon=True)
            self._thread.start()
        with suppress(queue.Full):  # metrics.jsonl has them
            self._lines.put_nowait((self._last, figures))

    def close(self, result: Mapping[str, Any]) -> None:
        """The run has ended with these figures: log them, and wait a while until all is logged."""
        self.log({"step": self._last, **{name: result[name] for name in result if name.startswith("val_")}})
        if self._thread is None:
            return
        with suppress(queue.Full):
            self._lines.put(None, timeout=LAST_S)
        self._thread.join(LAST_S)
        if self._thread.is_alive():
            self._warnings.append(f"{', '.join(self._loggers)} did not take all figures within {LAST_S:.0f} s")

    # ------------------------------------------------------------------------------------------------- thread

    def _carry(self) -> None:
        for name in tuple(self._loggers):
            self._try(name, lambda logger: logger.begin(*self._begin))
        while (line := self._lines.get()) is not None:
            step, figures = line
            for name in tuple(self._loggers):
                self._try(name, partial(_log, figures, step))
        for name in tuple(self._loggers):
            self._try(name, lambda logger: logger.end())

    def _try(self, name: str, call: Callable[[Logger], None]) -> None:
        try:
            call(self._loggers[name])
        except (Exception, SystemExit) as error:  # whatever other people's code raises
            del self._loggers[name]
            self._warnings.append(f"nothing is logged to {name} any more: {told(error)}")


def _log(figures: Mapping[str, float], step: int, logger: Logger) -> None:
    logger.log(figures, step)
