"""The server that worker processes are forked from: it imports torch once, beside whatever the driver does meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext
from types import FrameType, ModuleType
from typing import cast

FORKSERVER = "forkserver"
SAFE_PATH, OURS = "PYTHONSAFEPATH", "roadtrain"
"""Any text in this variable has Python not look for modules in the current folder first; ours is taken back."""


def _signals(*names: str) -> tuple[signal.Signals, ...]:
    """Those that this system has."""
    return tuple(signal.Signals[name] for name in names if name in signal.Signals.__members__)


WARNING = _signals("SIGUSR1", "SIGUSR2", "SIGXCPU")
"""With what batch systems say, perhaps several times, that a process's time is nearly over."""
ENDING = (*_signals("SIGINT", "SIGTERM", "SIGHUP"), *WARNING)
"""What asks a process to end."""


def start() -> ForkServerContext:
    """Start the server, unless it runs; returns at once. Processes are made with what is returned, within `sheltered`. Where the
    system has no such server, each process imports torch for itself."""
    if FORKSERVER not in multiprocessing.get_all_start_methods():
        return cast(
            "ForkServerContext", multiprocessing.get_context("spawn")
        )  # they differ in nothing that is used here
    context = multiprocessing.get_context(FORKSERVER)
    context.set_forkserver_preload(["roadtrain.fleet.worker"])
    with sheltered():
        forkserver.ensure_running()
    return context


def stop() -> None:
    """End the server, and wait until it is gone. What it has started lives on."""
    forkserver._forkserver._stop()  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]
    resource_tracker._resource_tracker._stop()  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]


@contextmanager
def sheltered() -> Iterator[None]:
    """What is started here does not hear what asks a process group to end, as workers would be lost with their server; it
    looks in the standard library first, so that a file called queue.py in the current folder does no harm; and it does not
    run the script once more that this process runs, as multiprocessing would have it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    resource_tracker.ensure_running()  # the first time, it lets through what ends a process
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    ours = SAFE_PATH not in os.environ
    if ours:
        os.environ[SAFE_PATH] = OURS
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
        if ours:
            del os.environ[SAFE_PATH]
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def hearing(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Around all in which `handle` hears what asks this process to end. What is ignored, such as under nohup, stays so."""
    heard = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_shelter() -> None:
    """In a process that was started: Ctrl-C is the driver's, who agrees on a last step with all workers; the rest is as usual."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    if os.environ.get(SAFE_PATH) == OURS:
        del os.environ[SAFE_PATH]


def print_to_log(log: str) -> int:
    """This process's errors, and its words, go to a file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    return file
