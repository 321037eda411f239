"""Whether batches are compressed for one receiver, sans-IO: where that takes less time than it saves on the line.

Pictures do not get smaller, tokens do, several times; a line of 10 Mbit/s is worth it, one of 10 Gbit/s is not. So both are
measured: what the line carries, and what compressing has made of batches like these.
"""

from __future__ import annotations

TRY_BELOW = 100e6
"""Bytes per second: on a faster line nothing is tried, as zstd takes longer than that to compress."""
AGAIN = 64
"""A receiver for whom it was not worth it is tried again after so many batches: data and lines change."""


class Squeeze:
    """Of what goes to one receiver."""

    def __init__(self) -> None:
        self._ratio: float | None = None
        self._s_per_byte = 0.0
        self._since = 0

    def wanted(self, rate: float | None) -> bool:
        """Whether the next batch is to be compressed, on a line of `rate` bytes per second; None: not measured."""
        if rate is None or rate > TRY_BELOW:
            return False
        if self._ratio is None or (1.0 - self._ratio) / rate > self._s_per_byte:
            return True
        self._since += 1
        return self._since % AGAIN == 0

    def measured(self, before: int, after: int, seconds: float) -> None:
        """A batch of `before` bytes became one of `after`."""
        if before:
            self._ratio, self._s_per_byte = after / before, seconds / before
