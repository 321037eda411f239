"""When silence is death: the phi-accrual failure detector (Hayashibara et al. 2004, "The phi accrual failure detector").

Each heartbeat's distance from the one before goes into a window. The longer the present silence against what the window knows,
the greater phi: 1 means that one silence in ten is as long, 12 that one in 10^12 is.
"""

from __future__ import annotations

import math
from collections import deque

WINDOW = 100
"""Intervals that are remembered."""
DEAD_PHI = 12.0
SILENT_MIN_S = 2.5
"""Nobody is dead before: an interpreter that is held for a moment beats late."""
DEVIATION_MIN = 0.2
"""Least standard deviation, as a share of the mean."""


class Detector:
    """The heartbeats of one worker, expected every `every_s` until the window knows better."""

    def __init__(self, every_s: float, now: float) -> None:
        self._intervals: deque[float] = deque([every_s], maxlen=WINDOW)
        self.heard_s = now

    def beat(self, now: float) -> None:
        """It was heard."""
        if now > self.heard_s:
            self._intervals.append(now - self.heard_s)
            self.heard_s = now

    def excuse(self, seconds: float) -> None:
        """So long nobody was listening."""
        self.heard_s += seconds

    def revive(self, now: float) -> None:
        """It begins, or is back: what was before says nothing."""
        self.heard_s = now

    def phi(self, now: float) -> float:
        """How unlikely the present silence is, as -log10 of its probability."""
        mean = math.fsum(self._intervals) / len(self._intervals)
        spread = math.fsum((interval - mean) ** 2 for interval in self._intervals) / len(self._intervals)
        deviation = max(math.sqrt(spread), DEVIATION_MIN * mean)
        tail = 0.5 * math.erfc((now - self.heard_s - mean) / (deviation * math.sqrt(2)))
        return -math.log10(tail) if tail > 0 else math.inf

    def dead(self, now: float) -> bool:
        """Whether the silence is too long to be one."""
        return now - self.heard_s > SILENT_MIN_S and self.phi(now) >= DEAD_PHI
