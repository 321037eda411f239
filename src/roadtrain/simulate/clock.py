"""Virtual time: a heap of what happens when, and coroutines that wait on it instead of on a wall clock."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Coroutine, Generator
from typing import Any


class Signal:
    """Something to wait for, once. Setting it twice is harmless."""

    def __init__(self) -> None:
        self._set = False
        self._resume: list[Callable[[], None]] = []

    def set(self) -> None:
        """Wake all who wait."""
        self._set = True
        waiting, self._resume = self._resume, []
        for resume in waiting:
            resume()

    def __await__(self) -> Generator[Signal, None, None]:
        if not self._set:
            yield self

    def on_set(self, resume: Callable[[], None]) -> None:
        """Call `resume` when set."""
        self._resume.append(resume)


class VirtualClock:
    """Runs actions in the order of their time; equal times in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Do `action` at `time` (seconds), or now if that has passed."""
        self._sequence += 1
        heapq.heappush(self._heap, (max(time, self.now), self._sequence, action))

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine that waits only for signals of this clock."""

        def resume() -> None:
            try:
                signal = coroutine.send(None)
            except StopIteration:
                return
            signal.on_set(lambda: self.at(self.now, resume))

        self.at(self.now, resume)

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` of virtual time pass."""
        signal = Signal()
        self.at(self.now + seconds, signal.set)
        await signal

    def run(self, until: Callable[[], bool], deadline_s: float) -> bool:
        """Run until the condition holds; False when nothing is left to happen or the deadline has passed before."""
        while not until():
            if not self._heap or self._heap[0][0] > deadline_s:
                return False
            self.now, _, action = heapq.heappop(self._heap)
            self.steps += 1
            action()
        return True
