"""Workers as processes of this machine. They are forked from one server that has imported torch once."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from roadtrain.errors import RunFailed
from roadtrain.fleet.post import Post
from roadtrain.launch.restart import after_failure, note
from roadtrain.launch.run_request import RunRequest, threads_per_worker
from roadtrain.launch.supervisor import Supervisor, Watcher
from roadtrain.plan import replica_groups_of
from roadtrain.report import Report
from roadtrain.wire.credentials import Credentials

HOST = "127.0.0.1"
SAFE_PATH, OURS = "PYTHONSAFEPATH", "roadtrain"
"""Any text in this variable has Python not look for modules in the current folder first; ours is taken back."""
GOODBYE_S = 5.0
"""How long the workers have to end by themselves when their run is over."""
RESTARTS = 3
"""How often a run starts again by itself."""


def run_local(order: RunRequest, watcher: Watcher) -> Report:
    """Run `order` with its workers on this machine. Raises RunFailed or Interrupted.

    A replica that lost a part of itself starts again from its last checkpoint; one that ran out of memory, in smaller pieces.
    """
    for _ in range(RESTARTS):
        token = secrets.token_urlsafe(32)
        conductor = Supervisor(order, Credentials(token, secure=False), HOST, 0)
        try:
            return _see_through(conductor, token, watcher)
        except RunFailed as error:
            again = after_failure(order, conductor.coordinator)
            if again is None:
                raise
            note(order, again, error)
            order = again
    token = secrets.token_urlsafe(32)
    return _see_through(Supervisor(order, Credentials(token, secure=False), HOST, 0), token, watcher)


def _see_through(conductor: Supervisor, token: str, watcher: Watcher) -> Report:
    order = conductor.order
    threads = threads_per_worker(order.plan, os.environ)
    crew = LocalProcesses(order.folder / "logs")
    try:
        posts = [
            Post(conductor.serving.url, token, False, slot, HOST, slot, threads)
            for slot in range(order.plan.place.workers)
        ]
        for post in posts:
            crew.start(post)

        def renew(names: Sequence[str]) -> None:
            crew.kill(names)
            for name in names:
                crew.start(posts[int(name[1:])])

        conductor.watch(crew.dead, watcher, renew if replica_groups_of(order.plan) else None)
    finally:
        crew.end()
        report = conductor.finish()
    return report


class LocalProcesses:
    """The worker processes of a local run."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["roadtrain.fleet.worker"])
        self._processes: dict[str, ForkServerProcess] = {}

    def start(self, post: Post) -> None:
        """Start the worker of `post`."""
        name = f"w{post.slot}"
        log = str(self._logs / f"{name}.log")
        process = self._context.Process(target=_be_worker, args=(post, log), name=name, daemon=True)
        try:
            with _safe_path():
                process.start()
        except OSError as error:
            raise RunFailed(f"cannot start a worker process: {error}") from error
        self._processes[name] = process

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

    def end(self) -> None:
        """Wait for the processes a moment, then kill what is left."""
        until = time.monotonic() + GOODBYE_S
        for process in self._processes.values():
            process.join(timeout=max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join(timeout=GOODBYE_S)


@contextmanager
def _safe_path() -> Iterator[None]:
    """Has the server look in the standard library first: a file called queue.py in the current folder does no harm."""
    if SAFE_PATH in os.environ:
        yield
        return
    os.environ[SAFE_PATH] = OURS
    try:
        yield
    finally:
        del os.environ[SAFE_PATH]


def _be_worker(post: Post, log: str) -> None:
    """What runs in a worker process: its words go to its log."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C is the driver's: it agrees on a last step with all workers
    if os.environ.get(SAFE_PATH) == OURS:
        del os.environ[SAFE_PATH]
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    from roadtrain.fleet.worker import work

    sys.exit(work(post))
