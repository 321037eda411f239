"""What happens, told to whoever listens just now. Lives on one asyncio loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

WAITING_MAX = 1000
"""Records that wait for one listener. Of a listener that is slower the oldest go, and it is told how many."""


class Listener:
    """One that listens."""

    def __init__(self) -> None:
        self._waiting: deque[Mapping[str, Any]] = deque()
        self._missed = 0
        self._news = asyncio.Event()

    def tell(self, record: Mapping[str, Any]) -> None:
        """For later."""
        if len(self._waiting) == WAITING_MAX:
            self._waiting.popleft()
            self._missed += 1
        self._waiting.append(record)
        self._news.set()

    async def hear(self) -> Mapping[str, Any]:
        """The next record; waits for one."""
        await self._news.wait()
        if self._missed:
            missed, self._missed = self._missed, 0
            return {"event": "missed", "records": missed}
        record = self._waiting.popleft()
        if not self._waiting:
            self._news.clear()
        return record


class Broadcast:
    """To all that listen."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()

    def publish(self, record: Mapping[str, Any]) -> None:
        """Tell it to all that listen now. Nobody is waited for."""
        for listener in self._listeners:
            listener.tell(record)

    @contextmanager
    def listening(self) -> Generator[Listener]:
        """Someone who is told what is published meanwhile."""
        listener = Listener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
