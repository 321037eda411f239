"""Virtual time: a heap of what happens when, and coroutines that wait on it instead of on a wall clock."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Coroutine, Generator
from typing import Any

LOOK_EVERY = 5_000
"""Events between two looks of whoever watches a run."""


class Signal:
    """Something to wait for, once. Setting it twice is harmless."""

    __slots__ = ("_resume", "_set")

    def __init__(self) -> None:
        self._set = False
        self._resume: list[Callable[[], None]] = []

    def set(self) -> None:
        """Wake all who wait: they go on at once, to their next wait."""
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


class _Runner:
    """A coroutine that goes on whenever what it waits for has come. Who waits is not running: waking it at once is safe."""

    __slots__ = ("_send",)

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._send = coroutine.send

    def resume(self) -> None:
        try:
            waits_for = self._send(None)
        except StopIteration:
            return
        waits_for.on_set(self.resume)


class VirtualClock:
    """Runs actions in the order of their time, equal times in the order in which they were asked for.

    `closing`: whoever waits for an end may have come to it, so it is looked for after every event from then on.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self.closing = False
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0

    def at(self, time: float, action: Callable[..., None], *arguments: Any) -> None:
        """Do `action(*arguments)` at `time` (seconds), or now if that has passed."""
        self._sequence += 1
        heapq.heappush(self._heap, (time if time > self.now else self.now, self._sequence, action, arguments))

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine that waits only for signals, from now on."""
        self.at(self.now, _Runner(coroutine).resume)

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` of virtual time pass."""
        over = Signal()
        self.at(self.now + seconds, over.set)
        await over

    def run(self, until: Callable[[], bool], deadline_s: float, look: Callable[[], None] = lambda: None) -> bool:
        """Run until the condition holds while `closing`; False when nothing is left to happen or the deadline has passed before.

        `look` is called now and then, for whoever watches; it changes nothing.
        """
        heap, pop = self._heap, heapq.heappop
        while not (self.closing and until()):
            if not heap or heap[0][0] > deadline_s:
                return False
            self.now, _, action, arguments = pop(heap)
            action(*arguments)
            self.steps += 1
            if self.steps % LOOK_EVERY == 0:
                look()
        return True
