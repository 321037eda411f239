"""What is under way to one peer: frames in order, each with the time at which its delay is over. Bounded in bytes."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parcel:
    """One encoded frame. `number`: of its message; `first`: it begins the message. `due_s`: on the loop's clock."""

    number: int
    first: bool
    due_s: float
    raw: bytes


class Line:
    """A queue of parcels with one task at each end."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._parcels: deque[Parcel] = deque()
        self._held = 0
        self._changed = asyncio.Event()

    @property
    def empty(self) -> bool:
        """Whether nothing is under way."""
        return not self._parcels

    async def put(self, parcel: Parcel) -> None:
        """Add a parcel as soon as it fits; on an empty line every parcel does."""
        while self._parcels and self._held + len(parcel.raw) > self._limit:
            await self._change()
        self._parcels.append(parcel)
        self._held += len(parcel.raw)
        self._changed.set()

    async def get(self) -> Parcel:
        """Take the oldest parcel, when there is one."""
        while not self._parcels:
            await self._change()
        parcel = self._parcels.popleft()
        self._held -= len(parcel.raw)
        self._changed.set()
        return parcel

    async def _change(self) -> None:
        """Wait for the other end. The two never wait at once: one of them waits on an empty line, the other on a full one."""
        self._changed.clear()
        await self._changed.wait()
