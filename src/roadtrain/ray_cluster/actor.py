"""What runs in the process of an actor: a worker or a feeder, like any other."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import ray

from roadtrain.errors import UsageError
from roadtrain.fleet.worker_spec import WorkerSpec
from roadtrain.launch.process_server import leave_shelter
from roadtrain.launch.run_folder import LOCK
from roadtrain.ray_cluster.bundles import Seat
from roadtrain.wire.credentials import is_loopback

READ_BYTES = 65536
DRAIN_S = 5.0
"""How long the last words may take into the log."""


class Actor:
    """One process of a run: `name` is w0, f0 or the like, which Ray shows. `folder` is the run's, `here` the driver's current
    one: both are to be the same everywhere, as what is trained and what it reads is found by name."""

    def __init__(self, name: str, folder: str, here: str) -> None:
        self._name, self._folder, self._here = name, Path(folder), here

    def __repr__(self) -> str:
        return self._name

    def work(self, given: WorkerSpec, seat: Seat) -> int:
        """Be the worker of `given`; returns the exit code. Raises UsageError where this node will not do."""
        os.environ["LOCAL_WORLD_SIZE"] = str(seat.siblings)
        with self._at_work():
            from roadtrain.fleet.worker import work

            return work(replace(given, host=_own_host(given.host), local=seat.local))

    def feed(self, given: WorkerSpec) -> int:
        """Be a feeder of the run of `given`; returns the exit code. Raises UsageError as `work` does."""
        with self._at_work():
            from roadtrain.fleet.feeder import feed

            return feed(replace(given, host=_own_host(given.host)))

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        node = os.uname().nodename
        if not Path(self._here).is_dir():
            raise UsageError(f"the Ray node {node} has no folder {self._here}, in which the run was started")
        if not (self._folder / LOCK).exists():
            raise UsageError(f"the Ray node {node} does not see the run's folder {self._folder}")
        leave_shelter()
        os.chdir(self._here)
        logs = self._folder / "logs"
        with copied(1, logs / f"{self._name}.out"), copied(2, logs / f"{self._name}.log"):
            yield


def _own_host(driver: str) -> str:
    """The address of this node that others reach, `driver` being their coordinator's: Ray knows it."""
    return driver if is_loopback(driver) else ray.util.get_node_ip_address()


@contextmanager
def copied(descriptor: int, log: Path) -> Iterator[None]:
    """What is written to the file `descriptor` goes where it went, which is to Ray's logs, and into `log`."""
    before, file = os.dup(descriptor), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    reader, writer = os.pipe()
    os.dup2(writer, descriptor)
    os.close(writer)

    def pump() -> None:
        while data := os.read(reader, READ_BYTES):
            for each in (before, file):
                with suppress(OSError):  # a full disk must not stop the worker
                    os.write(each, data)

    pumping = threading.Thread(target=pump, name=f"words {descriptor}", daemon=True)
    pumping.start()
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(before, descriptor)
        pumping.join(DRAIN_S)  # processes that a script has left may still write
