"""A feeder's process on a machine that feeds a fleet's runs."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

from roadtrain.fleet.worker_spec import WorkerSpec
from roadtrain.launch.process_server import leave_shelter


def be_feeder(given: WorkerSpec, target: str, parent: Connection) -> None:
    """Feed the run of `given` from this machine's own `target`, until it is over, or the other end of `parent` is closed."""
    leave_shelter()
    from roadtrain.fleet.feeder import feed

    def started(leave: Callable[[], None]) -> None:
        threading.Thread(target=_end_with, args=(parent, leave), name="parent", daemon=True).start()

    sys.exit(feed(given, target, started))


def _end_with(parent: Connection, leave: Callable[[], None]) -> None:
    with contextlib.suppress(EOFError, OSError):
        parent.recv_bytes(1)
    leave()
