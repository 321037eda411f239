"""What has come in at fragment 0, on its way to the run's ledger: told to the coordinator once a second at most."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from roadtrain.lease import Leases
from roadtrain.session.control import Control
from roadtrain.view import PeerId

EVERY_S = 1.0


class Accounts:
    """Of one worker, which may own fragment 0. `size`: samples of an epoch; `batch`: of a slice. Any thread may call."""

    def __init__(self, control: Control, size: int, batch: int) -> None:
        self._control, self._size, self._batch = control, size, batch
        self._lock = threading.Lock()
        self._untold: list[tuple[PeerId, Leases]] = []
        self._told_s = 0.0

    def take(self, contributions: Sequence[tuple[PeerId, Leases]]) -> None:
        """These count."""
        with self._lock:
            self._untold += contributions
            due = time.monotonic() - self._told_s > EVERY_S
        if due:
            self.flush()

    def flush(self) -> None:
        """Tell what has not been told."""
        with self._lock:
            untold, self._untold = tuple(self._untold), []
            self._told_s = time.monotonic()
        if untold:
            self._control.counted(self._size, self._batch, untold)
