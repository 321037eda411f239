"""Workers as processes of this machine. They are forked from one server that has imported torch once."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from roadtrain.errors import RunFailed
from roadtrain.fleet.worker_spec import WorkerSpec
from roadtrain.launch.attempts import GOODBYE_S, RESTARTS, see_through
from roadtrain.launch.heir import RunHeir
from roadtrain.launch.process_server import leave_shelter, print_to_log, sheltered, start
from roadtrain.launch.run_folder import RunLock
from roadtrain.launch.run_request import RunRequest
from roadtrain.launch.snapshot import RunSnapshot
from roadtrain.launch.supervisor import Watcher
from roadtrain.launch.words import Words, print_to, relay
from roadtrain.report import Report

HOST = "127.0.0.1"


def run_local(
    order: RunRequest,
    watcher: Watcher,
    words: Words | None = None,
    meet: Callable[[WorkerSpec], None] = lambda given: None,
) -> Report:
    """Run `order` with its workers on this machine, as `see_through` does."""
    return see_through(order, ThisMachine(), watcher, words, meet)


class ThisMachine:
    """Where workers are its processes."""

    host = HOST

    def crew(self, order: RunRequest, lock: RunLock, words: Words | None) -> LocalProcesses:
        """See `Site`."""
        return LocalProcesses(order.folder / "logs", lock, words)


class LocalProcesses:
    """The worker processes of a local run. `words` shows what worker 0 prints; None: its log alone has it."""

    def __init__(self, logs: Path, lock: RunLock, words: Words | None = None) -> None:
        self._logs, self._lock, self._words = logs, lock, words
        self._context = start()
        self._processes: dict[str, ForkServerProcess] = {}
        self._feeders: dict[WorkerSpec, tuple[ForkServerProcess, int]] = {}

    def start(self, given: WorkerSpec) -> None:
        """Start the worker of `given`."""
        name = f"w{given.slot}"
        log = str(self._logs / f"{name}.log")
        shown = self._words if given.slot == 0 else None
        reader, writer = multiprocessing.Pipe(duplex=False) if shown is not None else (None, None)
        # Not daemonic: those may have no processes of their own, which load a person's data.
        process = self._context.Process(target=_be_worker, args=(given, self._lock, log, writer), name=name)
        try:
            with sheltered():
                process.start()
        except OSError as error:
            raise RunFailed(f"cannot start a worker process: {error}") from error
        if reader is not None and writer is not None and shown is not None:
            writer.close()
            relay(reader, Path(log), shown)
        self._processes[name] = process

    def start_feeders(self, count: int, given: WorkerSpec) -> None:
        """Start so many feeders of the run that the worker of `given` is in."""
        for number in range(count):
            self._start_feeder(replace(given, slot=number, local=number, threads=1), RESTARTS)

    def _start_feeder(self, given: WorkerSpec, left: int) -> None:
        log = str(self._logs / f"f{given.slot}.log")
        process = self._context.Process(target=_be_feeder, args=(given, self._lock, log), name=f"f{given.slot}")
        try:
            with sheltered():
                process.start()
        except OSError as error:
            raise RunFailed(f"cannot start a feeder's process: {error}") from error
        self._feeders[given] = process, left

    def renew_feeders(self) -> None:
        """Start those again that have ended, a few times each: a run goes on without them."""
        for given, (process, left) in list(self._feeders.items()):
            if left and not process.is_alive():
                self._start_feeder(given, left - 1)

    def beside(self, watcher: Watcher) -> Watcher:
        """What watches a run, and sees to its feeders."""

        def watch(snapshot: RunSnapshot) -> None:
            self.renew_feeders()
            watcher(snapshot)

        return watch

    def dead(self) -> list[str]:
        """Workers whose process has ended since this was last asked: one look at all of them, as it is asked again and again
        beside workers that compute."""
        over = wait([process.sentinel for process in self._processes.values()], timeout=0)
        ended = [name for name, process in self._processes.items() if process.sentinel in over]
        for name in ended:
            del self._processes[name]
        return ended

    def kill(self, names: Sequence[str]) -> None:
        """End what is left of these workers, at once."""
        for name in names:
            process = self._processes.pop(name, None)
            if process is not None:
                process.kill()
                process.join(timeout=GOODBYE_S)

    def end(self, *, at_once: bool = False) -> None:
        """Wait for the processes a moment, then kill what is left."""
        until = time.monotonic() + (0.0 if at_once else GOODBYE_S)
        for process in (*self._processes.values(), *(feeder for feeder, _ in self._feeders.values())):
            process.join(timeout=max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join(timeout=GOODBYE_S)


def _be_feeder(given: WorkerSpec, lock: RunLock, log: str) -> None:
    """What runs in a feeder's process: its words go to its log."""
    leave_shelter()
    print_to_log(log)
    from roadtrain.fleet.feeder import feed

    sys.exit(feed(given))


def _be_worker(given: WorkerSpec, lock: RunLock, log: str, words: Connection | None) -> None:
    """What runs in a worker process: its words go to its log. It holds the `lock` of the run's folder until it ends."""
    leave_shelter()
    file = print_to_log(log)
    if words is not None:
        print_to(words, file)
    from roadtrain.fleet.worker import work

    heir = RunHeir(f"w{given.slot}", given.credentials())
    code = work(given, heir)
    over = heir.see_through()  # others may still train, whatever this worker came to
    sys.exit(code or over)
