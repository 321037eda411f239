"""What happens, told to whoever listens just now. Lives on one asyncio loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

WAITING_MAX = 1000
"""Records that wait for one listener. Of a listener that is slower the oldest go, and it is told how many."""


class Listener:
    """One that listens. Records are text, as JSON."""

    def __init__(self) -> None:
        self._waiting: deque[str] = deque()
        self._missed = 0
        self._news = asyncio.Event()

    def tell(self, record: str) -> None:
        """For later."""
        if len(self._waiting) == WAITING_MAX:
            self._waiting.popleft()
            self._missed += 1
        self._waiting.append(record)
        self._news.set()

    async def hear(self) -> list[str]:
        """All that waits; waits for something."""
        await self._news.wait()
        self._news.clear()
        records = [*self._waiting]
        self._waiting.clear()
        if self._missed:
            missed, self._missed = self._missed, 0
            records.insert(0, _text({"event": "missed", "records": missed}))
        return records


class Broadcast:
    """To all that listen."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()

    def publish(self, record: Mapping[str, Any]) -> None:
        """Tell it to all that listen now. Nobody is waited for. Numbers that are not finite become null: JSON has no others."""
        if self._listeners:
            text = _text(record)
            for listener in self._listeners:
                listener.tell(text)

    @contextmanager
    def listening(self) -> Generator[Listener]:
        """Someone who is told what is published meanwhile."""
        listener = Listener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)


def bundled(records: list[str]) -> str:
    """One text for several: {"event": "together", "records": [...]}."""
    return f'{{"event":"together","records":[{",".join(records)}]}}'


def _text(record: Mapping[str, Any]) -> str:
    return msgspec.json.encode(record).decode()
