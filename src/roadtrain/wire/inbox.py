"""What has come in and not been looked at yet. Bounded in bytes."""

from __future__ import annotations

import asyncio
from collections import deque

from roadtrain.message import Envelope, Local, packets


def nbytes(envelope: Envelope) -> int:
    """Bytes of a message's packets."""
    return sum(packet.nbytes for packet in packets(envelope.message))


class Inbox:
    """Events in the order in which they came. Whoever reads a stream waits for `room` first.

    That wait cannot become a deadlock: the inbox is emptied by one task, which sends without ever waiting (what does not fit
    a queue to a peer is dropped, and asked for again). So it waits for nobody's reading, and whoever waits for room gets it. A
    message is let in whole: the bound may be exceeded by one message for each stream.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._events: deque[Envelope | Local] = deque()
        self._held = 0
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()

    def put(self, event: Envelope | Local) -> None:
        """Add it, whatever is there."""
        self._events.append(event)
        self._held += nbytes(event) if isinstance(event, Envelope) else 0
        self._arrived.set()

    async def room(self) -> None:
        """Wait while more is held than may be."""
        while self._held > self._limit:
            self._taken.clear()
            await self._taken.wait()

    async def get(self, until: float | None) -> Envelope | Local | None:
        """The next event, or None when the loop's time is `until`."""
        while not self._events:
            self._arrived.clear()
            timeout = None if until is None else until - asyncio.get_running_loop().time()
            if timeout is not None and timeout <= 0:
                return None
            try:
                async with asyncio.timeout(timeout):
                    await self._arrived.wait()
            except TimeoutError:
                return None
        event = self._events.popleft()
        if isinstance(event, Envelope):
            self._held -= nbytes(event)
            self._taken.set()
        return event
