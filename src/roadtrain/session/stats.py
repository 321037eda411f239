"""What one worker counts while it trains."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from roadtrain.wire.meter import Meter


@dataclass(slots=True)
class Counts:
    """What the protocol has told of. `refused_since`: the step from which on nothing was accepted any more that was contributed
    to some fragment of parameters which is owned here; 0 for none."""

    refused: int = 0
    refused_since: int = 0
    handoffs: int = 0
    diverged: int = 0


@dataclass(slots=True)
class WorkerStats:
    """Totals since this process began to train; times in seconds. `refused_since`: as in `Counts`. `left_out_since`: the step
    from which on a layout took none, as the gradient was not finite; 0 for none. `fed`: samples by the feeder that made them;
    `left_out`: those that could not be made."""

    steps: int = 0
    samples: int = 0
    left_out: int = 0
    compute_s: float = 0.0
    sync_wait_s: float = 0.0
    feed_wait_s: float = 0.0
    wall_s: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0
    bytes_inside: int = 0
    receiving_bytes: int = 0
    receiving_s: float = 0.0
    state_bytes: int = 0
    peak_memory_bytes: int = 0
    lead_max: int = 0
    refused: int = 0
    refused_since: int = 0
    left_out_since: int = 0
    handoffs: int = 0
    diverged: int = 0
    loss: float = float("nan")
    staleness: Counter[int] = field(default_factory=Counter[int])
    fed: Mapping[str, int] = field(default_factory=dict[str, int])
    waiting: bool = False
    """Whether the training thread waits for others just now."""

    @contextmanager
    def timed(self, name: str) -> Generator[None]:
        """Add the time of a block to the total `name`."""
        begin = time.perf_counter()
        self.waiting = name == "sync_wait_s"
        try:
            yield
        finally:
            self.waiting = False
            setattr(self, name, getattr(self, name) + time.perf_counter() - begin)

    def count(self, meter: Meter, counts: Counts) -> None:
        """What the connections and the protocol have counted."""
        self.receiving_bytes, self.receiving_s = meter.receiving_bytes, meter.receiving_s
        self.refused, self.handoffs, self.diverged = counts.refused + meter.refused, counts.handoffs, counts.diverged
        self.refused_since = counts.refused_since

    def figures(self) -> dict[str, float]:
        """What a line of metrics says beside the step and its loss: totals so far. `staleness`: the mean of all contributions."""
        counts = list(self.staleness.items())
        contributions = sum(count for _, count in counts)
        return {
            "samples": self.samples,
            "compute_s": round(self.compute_s, 6),
            "sync_wait_s": round(self.sync_wait_s, 6),
            "feed_wait_s": round(self.feed_wait_s, 6),
            "staleness": round(sum(each * count for each, count in counts) / contributions, 3)
            if contributions
            else 0.0,
        }

    def as_dict(self) -> dict[str, Any]:
        """For the coordinator."""
        counted = asdict(self) | {"staleness": {str(k): v for k, v in self.staleness.items()}}
        del counted["waiting"]
        return counted
