"""Ctrl-C before a run has begun: nothing is to be saved, so the process ends at once, with one line."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from roadtrain.errors import Interrupted

BEFORE = "stopped before the run began"


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Around what imports other people's code. An exception could be raised anywhere in it: Python prints those of callbacks amid
    an import, and goes on. Where Ctrl-C is ignored, as under nohup, it stays so."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _stop(number: int, frame: FrameType | None) -> None:
    print(f"error: {BEFORE}", file=sys.stderr, flush=True)
    os._exit(Interrupted.exit_code)
