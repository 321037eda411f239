"""What a rank does when it is asked to end: before the run has begun, of which it says for whom it waits; while the first rank is
the one to ask; and when that is gone."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from roadtrain.launch.process_server import ENDING

SAY_S = (5.0, 60.0)
"""Seconds until it is first said, and the longest between two lines; they double."""


class Patience:
    """From the moment it is made, signals that end a process end the wait. Once the run has begun (`begun`) they are left to the
    first rank, which agrees on a last step with all workers; and when another is the coordinator (`succeeded`), any rank that is
    asked has that do so."""

    def __init__(self, rank: int, address: str) -> None:
        self._name, self._address = f"w{rank}", address
        self._asked = self._heeds = False
        self._say_at = SAY_S[0]
        for number in ENDING:
            signal.signal(number, self._end)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def __call__(self, whom: str, seconds: float) -> bool:
        """So long it has waited for `whom`. Whether it is to go on."""
        if seconds >= self._say_at:
            self._say_at = seconds + min(seconds, SAY_S[1])
            print(f"{self._name} waits for {whom} at {self._address} ({seconds:.0f} s)", file=sys.stderr, flush=True)
        return not self._asked

    def begun(self) -> None:
        """The run has begun."""
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)

    def succeeded(self, ask: Callable[[], None]) -> None:
        """Another is the coordinator, which `ask` asks to stop the run. Processes that this one has started until now go on
        ignoring what its group is told, as it did."""
        if threading.current_thread() is threading.main_thread() and not self._heeds:
            self._heeds = True
            for number in ENDING:
                signal.signal(number, lambda number, frame: ask())
