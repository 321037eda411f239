"""Whether most workers are silent at once: then it may be the coordinator that is cut off, and they go on without it.

Those who can reach each other, and are more than half, may choose another coordinator (`membership/recall.py`). So one that
hears less than half loses nobody for being silent: there would be two runs. Half is enough, as the others are no more than
that.
"""

from __future__ import annotations

from collections.abc import Sequence

from roadtrain.membership.record import WorkerRecord
from roadtrain.view import PeerId

FRESH_S = 1.5
"""Who was heard since is here; heartbeats come every second."""
CUT_OFF_S = 60.0
"""Most workers may be silent for so long."""


class Silence:
    """Of most workers of a run."""

    def __init__(self) -> None:
        self._since_s: float | None = None

    def cut_off(self, alive: Sequence[WorkerRecord], overdue: Sequence[PeerId], now: float) -> bool:
        """Whether some are `overdue` by their silence and fewer are here than silent. A broken connection is no silence: the host
        of the process, or the process, has said so."""
        standing = [worker for worker in alive if worker.gone_s is None]
        here = sum(now - worker.detector.heard_s < FRESH_S for worker in standing)
        silent = any(worker.name in overdue for worker in standing)
        if not silent or here >= len(standing) - here:
            self._since_s = None
            return False
        self._since_s = now if self._since_s is None else self._since_s
        return True

    def is_too_long(self, now: float) -> bool:
        """Whether it has lasted."""
        return self._since_s is not None and now - self._since_s > CUT_OFF_S
