"""A worker's process on a machine that has joined a fleet: what it is started with, and what it does."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from msgspec.msgpack import encode

from roadtrain.errors import RoadtrainError
from roadtrain.fleet.worker_spec import WorkerSpec
from roadtrain.launch.process_server import leave_shelter

LEAVE = b"leave"
LOGGED_S = 1.0
"""Between two words to the agent of how far a worker is."""
ORPHAN_S = 8.0
"""A worker whose agent is gone has so long to hand over what it holds."""


def be_worker(given: WorkerSpec, agent: Connection, stem: str) -> None:
    """Live as the worker of `given`. What it prints goes to the files `stem`.out and `stem`.log. Through `agent` it is told to
    leave; when the other end is closed, its agent is gone, and nobody would end it."""
    leave_shelter()
    for number, name in ((1, f"{stem}.out"), (2, f"{stem}.log")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
    assert given.own is not None, "it is on a machine that is lent"
    os.chdir(given.own.files)
    told = Told(agent)
    from roadtrain.fleet.worker import work

    try:
        code = work(given, waiting=lambda whom, seconds: not told.leaves, leaves=told.on_leave, logged=told.logged)
    except RoadtrainError as error:
        print(f"w{given.slot}: {error.line()}", file=sys.stderr)
        code = 0 if told.leaves else error.exit_code
    sys.exit(code)


class Told:
    """What the agent tells its worker, heard on a thread; and what it is told of the worker."""

    def __init__(self, agent: Connection) -> None:
        self.leaves = False
        self._agent, self._due_s = agent, 0.0
        self._leave: Callable[[], None] | None = None
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, args=(agent,), name="agent", daemon=True).start()

    def on_leave(self, leave: Callable[[], None]) -> None:
        """Call `leave`, on any thread, when this worker is to leave."""
        with self._lock:
            self._leave = leave
        if self.leaves:
            leave()

    def logged(self, step: int, loss: float | None) -> None:
        """Have the agent know how far this worker is, now and then."""
        now = time.monotonic()
        if now >= self._due_s and not self.leaves:
            self._due_s = now + LOGGED_S
            with suppress(OSError):
                self._agent.send_bytes(encode((step, loss)))

    def _listen(self, agent: Connection) -> None:
        gone = False
        try:
            agent.recv_bytes(len(LEAVE))
        except (EOFError, OSError):
            gone = True
        self.leaves = True
        with self._lock:
            leave = self._leave
        if leave is not None:
            leave()
        if not gone:
            try:
                agent.recv_bytes(len(LEAVE))
            except (EOFError, OSError):
                gone = True
        time.sleep(ORPHAN_S)
        os._exit(1)


def stem_of(folder: Path, slot: int) -> str:
    """Where a worker's words go, in its run's folder."""
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    return str(folder / "logs" / f"w{slot}")


def count_devices(answer: Connection) -> None:
    """Tell how many devices this machine has for workers, and what they are: its accelerators, or its processor."""
    leave_shelter()
    import torch

    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        answer.send((torch.accelerator.device_count(), str(kind)))
    else:
        answer.send((1, "cpu"))
