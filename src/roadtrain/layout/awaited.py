"""A collective whose result is put into its place by whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from torch.distributed.distributed_c10d import Work


class Awaited(Work):
    """`work` of torch's, and what is done on the waiting thread when it is over."""

    def __init__(self, work: Any, arrived: Callable[[], object]) -> None:
        super().__init__()
        self._work, self._arrived = work, arrived

    def wait(self, timeout: timedelta = timedelta(0)) -> bool:
        """Raises RuntimeError where the collective has failed."""
        self._work.wait()
        self._arrived()
        return True

    def is_completed(self) -> bool:
        """Whether waiting would take no time but that of the rest."""
        return self._work.is_completed()
