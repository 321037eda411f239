"""Link emulation: a token bucket for the rate, and a one-way delay. For trying a home line on a machine without one."""

from __future__ import annotations

import asyncio

from roadtrain.plan import Link

BURST_S = 0.004
"""How much time's worth of bytes may leave at once after a pause."""
CHUNK_BYTES = 1024 * 1024
"""Bytes of a chunk on a link of unlimited rate. Each costs both ends a turn of the loop and of gRPC's threads, in processor
time that training may want; a fragment of the default size is one as int8."""
LINE_CHUNKS = 4
"""Chunks that may have left a queue and not yet this process: enough that the line never runs dry, and few, because
control messages cannot overtake them."""
UNLIMITED_BYTES_PER_S = 1e9
"""What a link of unlimited rate is taken to carry when it has a delay: what is under way must be bounded all the same."""


class Shaper:
    """One direction of one worker's link, shared by all its peers. `link` None: neither rate nor delay."""

    def __init__(self, link: Link | None) -> None:
        self._rate = link.rate_bytes_per_s if link is not None else None
        self.delay_s = link.delay_s if link is not None else 0.0
        self._free_at = 0.0

    @property
    def shapes(self) -> bool:
        """Whether there is anything to emulate."""
        return self._rate is not None or self.delay_s > 0

    @property
    def chunk_bytes(self) -> int:
        """Chunk size: about 5 ms of the link, so that control messages never wait long behind payload."""
        if self._rate is None:
            return CHUNK_BYTES
        return max(4 * 1024, min(CHUNK_BYTES, int(self._rate * 0.005)))

    @property
    def line_bytes(self) -> int:
        """Bytes that may be under way to one peer: all that the link's delay holds, and a few chunks that wait to leave."""
        rate = UNLIMITED_BYTES_PER_S if self._rate is None else self._rate
        return int(rate * self.delay_s) + LINE_CHUNKS * self.chunk_bytes

    async def take(self, size: int) -> None:
        """Wait until `size` bytes may pass."""
        if self._rate is None:
            return
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now - BURST_S) + size / self._rate
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)
