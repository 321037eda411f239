"""Where a worker stands: what its trainer is told that the plan, which is the same for all, does not say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from roadtrain.wire import Credentials


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """A worker's slot of the samples, its address, the run's folder, the step and version it began with, and
    its number among the workers of its machine."""

    slot: int
    slots: int
    host: str
    folder: Path
    credentials: Credentials
    begun: tuple[int, int] = (0, 0)
    local: int = 0
