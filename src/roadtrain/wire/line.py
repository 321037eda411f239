"""The delay of an emulated link: frames in order, each with the time at which its delay is over. Bounded in bytes."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple


class Parcel(NamedTuple):
    """One encoded frame. `due_s`: on the loop's clock."""

    due_s: float
    raw: bytes


class Line:
    """A queue of parcels with one task at each end."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._parcels: deque[Parcel] = deque()
        self._held = 0
        self._changed = asyncio.Event()

    async def put(self, parcel: Parcel) -> None:
        """Add a parcel as soon as it fits; on an empty line every parcel does."""
        while self._parcels and self._held + len(parcel.raw) > self._limit:
            await self._change()
        self._parcels.append(parcel)
        self._held += len(parcel.raw)
        self._changed.set()

    async def get(self) -> bytes:
        """Take the oldest parcel, when there is one and its delay is over."""
        while not self._parcels:
            await self._change()
        parcel = self._parcels.popleft()
        self._held -= len(parcel.raw)
        self._changed.set()
        left_s = parcel.due_s - asyncio.get_running_loop().time()
        if left_s > 0:  # even a sleep of nothing is a turn of the loop
            await asyncio.sleep(left_s)
        return parcel.raw

    async def _change(self) -> None:
        """Wait for the other end. The two never wait at once: one of them waits on an empty line, the other on a full one."""
        self._changed.clear()
        await self._changed.wait()
