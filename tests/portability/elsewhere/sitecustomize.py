"""Python as if it were not on Linux: every process whose PYTHONPATH begins with this folder lacks what other systems lack.

Only roadtrain's own code finds no /proc: torch and the standard library take this for the Linux that it is.
"""

from __future__ import annotations

import builtins
import io
import multiprocessing.reduction
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from itertools import islice
from types import FrameType
from typing import Any

MODULES = ("resource",)
NAMES: dict[Any, tuple[str, ...]] = {
    os: ("sched_getaffinity", "pidfd_open", "memfd_create", "eventfd"),
    time: ("CLOCK_BOOTTIME",),
    signal: ("SIGRTMIN", "SIGRTMAX", "SIGPWR", "SIGSTKFLT", "SIGPOLL"),
    socket: (
        "TCP_INFO",
        "TCP_CONGESTION",
        "TCP_USER_TIMEOUT",
        "TCP_QUICKACK",
        "SO_BINDTODEVICE",
        "SO_PEERCRED",
        "SO_MARK",
        "AF_NETLINK",
    ),
}
FRAMES = 8
"""How far up the caller is looked for: a method of pathlib lies between."""


def _callers(frame: FrameType | None) -> Any:
    while frame is not None:
        yield str(frame.f_globals.get("__name__", ""))
        frame = frame.f_back


def _without_proc(function: Callable[..., Any]) -> Callable[..., Any]:
    def look(path: Any = ".", *rest: Any, **more: Any) -> Any:
        if isinstance(path, str | os.PathLike) and str(path).startswith("/proc"):
            near = islice(_callers(sys._getframe(1)), FRAMES)
            if any(name.partition(".")[0] == "roadtrain" for name in near):
                raise FileNotFoundError(2, "there is no /proc here", str(path))
        return function(path, *rest, **more)

    return look


for module in MODULES:
    sys.modules[module] = None  # pyright: ignore[reportArgumentType] so that importing it fails
for home, names in NAMES.items():
    for name in names:
        if hasattr(home, name):
            delattr(home, name)
multiprocessing.reduction.HAVE_SEND_HANDLE = False  # so that there is no forkserver
for name in ("listdir", "readlink", "scandir", "stat"):
    setattr(os, name, _without_proc(getattr(os, name)))
builtins.open = io.open = _without_proc(io.open)
