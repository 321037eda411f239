"""Deadlines of progress: a worker whose heartbeat goes on and whose training does not.

A training thread may hang (a network file system, a dead GPU, a loader's deadlock) while the thread that beats lives. What counts
is whether others wait for it: long validation, or a slow machine that nobody waits for, is no reason to lose anybody.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence

from roadtrain.membership.record import WorkerRecord

FIRST_STEP_S = 600.0
"""The first step may compile the model."""
SLOW_S, SLOW_STEPS = 60.0, 20
"""A step that takes longer than both is worth a word: seconds, and as multiple of the median step."""
STUCK_S, STUCK_STEPS = 300.0, 50
"""A step that takes longer than both, while others wait, has hung."""
WINDOW = 100
"""Steps that the median is taken of."""


class Progress:
    """The steps of all workers of a run."""

    def __init__(self) -> None:
        self._took_s: deque[float] = deque(maxlen=WINDOW)
        self._told: dict[tuple[str, int], int] = {}

    def stepped(self, worker: WorkerRecord, step: int, now: float) -> None:
        """A worker has come to `step`."""
        if step > worker.step > 0:
            self._took_s.append((now - worker.progress_s) / (step - worker.step))
        worker.step, worker.progress_s = step, now

    def _limit_s(self, worker: WorkerRecord, seconds: float, steps: int) -> float:
        if not self._took_s or not worker.step:
            return FIRST_STEP_S
        return max(seconds, steps * statistics.median(self._took_s))

    def slow(self, workers: Sequence[WorkerRecord], now: float) -> list[tuple[WorkerRecord, float]]:
        """Workers that others have waited for since long, and for how many seconds; each once a step."""
        found: list[tuple[WorkerRecord, float]] = []
        for worker in self._busy(workers, now, SLOW_S, SLOW_STEPS):
            if self._told.get((worker.name, worker.incarnation)) != worker.step:
                self._told[worker.name, worker.incarnation] = worker.step
                found.append((worker, now - worker.progress_s))
        return found

    def stuck(self, workers: Sequence[WorkerRecord], now: float) -> list[WorkerRecord]:
        """Workers that have hung."""
        return self._busy(workers, now, STUCK_S, STUCK_STEPS)

    def _busy(self, workers: Sequence[WorkerRecord], now: float, seconds: float, steps: int) -> list[WorkerRecord]:
        """Those that do not wait, are in one step for longer than allowed, and are waited for by others."""
        waiting = [worker for worker in workers if worker.waits]
        return [
            worker
            for worker in workers
            if waiting and not worker.waits and now - worker.progress_s > self._limit_s(worker, seconds, steps)
        ]
