"""How much this process can send to all its peers together, seen in its own traffic (sans-IO).

While something waits to be sent its line is as full as it gets. So bytes count that are acknowledged in such times, from the
first acknowledgement to the last: what came before it was under way already, and how long the way is does not matter.
"""

from __future__ import annotations

from collections import deque

SAMPLE_S = 0.5
"""Seconds of such times that make one sample."""
SAMPLES = 30
"""Samples for which the best one stands. Others of a round say less, as at its end only the slowest peer is still sent to."""
SAMPLES_MIN = 3
"""With fewer nothing is known: lines take a while to be filled."""


class Uplink:
    """Of one process. Times in seconds, on the caller's clock."""

    def __init__(self) -> None:
        self._waiting: set[object] = set()
        self._begun_s: float | None = None  # the first acknowledgement since something waits
        self._last_s = 0.0
        self._bytes = self._sampled_bytes = 0
        self._sampled_s = 0.0
        self._samples: deque[float] = deque(maxlen=SAMPLES)

    @property
    def rate(self) -> float | None:
        """Bytes per second, at best; None: not measured."""
        return max(self._samples) if len(self._samples) >= SAMPLES_MIN else None

    def waits(self, stream: object) -> None:
        """There is something that `stream` cannot send yet."""
        self._waiting.add(stream)

    def sends_all(self, stream: object) -> None:
        """There is nothing more to send on `stream`, or it has ended."""
        self._waiting.discard(stream)
        if not self._waiting:
            self._close()

    def arrived(self, size: int, now: float) -> None:
        """So many more bytes were acknowledged, by any peer."""
        if not self._waiting:
            return
        if self._begun_s is None:
            self._begun_s = self._last_s = now
            return
        self._bytes, self._last_s = self._bytes + size, now
        if self._sampled_s + now - self._begun_s >= SAMPLE_S:
            self._close()
            self._begun_s = now

    def _close(self) -> None:
        """What was seen since something waits is part of a sample."""
        if self._begun_s is not None:
            self._sampled_bytes += self._bytes
            self._sampled_s += self._last_s - self._begun_s
        self._begun_s, self._bytes = None, 0
        if self._sampled_s >= SAMPLE_S and self._sampled_bytes:
            self._samples.append(self._sampled_bytes / self._sampled_s)
            self._sampled_bytes, self._sampled_s = 0, 0.0
