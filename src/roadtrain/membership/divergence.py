"""A run whose loss is no number has trained nothing that anybody wants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from roadtrain.errors import RunFailed
from roadtrain.membership.record import WorkerRecord
from roadtrain.view import PeerId

LINES, PERIODS = 10, 2
"""So many losses in a row, over so many periods between agreements, are no finite numbers: then nothing will make them so. Each
agreement puts back what a bad batch has done to a worker."""


class Divergence:
    """`since`: the step at which a worker's loss was first no finite number, until it is one again."""

    def __init__(self) -> None:
        self.since: dict[PeerId, int] = {}
        self._run: dict[PeerId, tuple[int, int]] = {}
        """How many losses in a row are none, and the step of the last."""

    def note(self, name: PeerId, step: int, loss: float) -> bool:
        """A worker's loss at `step`. Whether it has just ceased to be a number."""
        if math.isfinite(loss):
            self.since.pop(name, None)
            self._run.pop(name, None)
            return False
        begins = name not in self.since
        self.since.setdefault(name, step)
        self._run[name] = self._run.get(name, (0, step))[0] + 1, step
        return begins

    def is_final(self, workers: Sequence[WorkerRecord], period: int) -> bool:
        """Whether the run cannot recover: at every worker that logs a loss it has been no number for long. `period`: steps
        between two agreements."""
        logging = _logging(workers)
        return bool(logging) and all(self._lasts(name, period) for name in logging)

    def _lasts(self, name: PeerId, period: int) -> bool:
        lines, last = self._run.get(name, (0, 0))
        return lines >= LINES and last - self.since[name] >= PERIODS * period

    def verdict(self, workers: Sequence[WorkerRecord], figures: dict[str, Any]) -> RunFailed | None:
        """At the end: why the run has failed, if it has. Workers that log no loss are not asked."""
        logging = _logging(workers)
        diverged = bool(logging) and all(name in self.since for name in logging)
        if not diverged and math.isfinite(figures.get("val_loss") or 0.0):
            return None
        since = f" since step {min(self.since.values())}" if self.since else ""
        return RunFailed(
            f"the model diverged: its loss is not finite{since}",
            "try a smaller learning rate, or --clip 1",
        )


def _logging(workers: Sequence[WorkerRecord]) -> list[PeerId]:
    return [worker.name for worker in workers if worker.metrics.get("loss") is not None]
