"""How much may be under way to a peer, and in what chunks: measured on the way, or as a declared link wants it.

gRPC and the kernel take megabytes before they make a sender wait, and what they hold nothing can overtake. So no more is handed
to them than the way there holds, and 50 ms of it: a control message waits for no more than that, whatever the line.
What the way holds is measured as BBR does it (Cardwell et al. 2016, ACM Queue 14-5), from the receiver's acknowledgements.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, Protocol

AHEAD_S = 0.035
"""Seconds' worth of bytes that may wait on the way, beyond those that travel; a chunk's time is in the round trip that is
seen."""
CHUNK_S = 0.015
"""Seconds that a chunk takes."""
CHUNK_MIN_BYTES, CHUNK_MAX_BYTES = 8 << 10, 1 << 20
"""Each chunk costs both ends a turn of the loop and of gRPC's threads, in processor time that training may want."""
WINDOW_FIRST_BYTES, WINDOW_MIN_BYTES, WINDOW_MAX_BYTES = 64 << 10, 32 << 10, 8 << 20
"""The first is 50 ms at 10 Mbit/s, the most 1 Gbit/s over 60 ms."""
ROUNDS = 10
"""Round trips for which the highest rate seen stands."""
RTT_S = 10.0
"""Seconds for which the shortest round trip seen stands; then the way is emptied to see it again, as ways change."""
GAIN, GROWING_GAIN = 1.25, 3.0
"""How fast bytes may leave, as multiples of the rate: enough to see a higher one, and to double a window in a round trip."""
TICK_S = 1e-6
"""Shortest time that is told from none."""


class Pace(Protocol):
    """Of one direction to one peer. Times in seconds, on the caller's clock."""

    again_at: float | None
    """When `room` is worth another question, after it gave none; None: when something is acknowledged."""

    def room(self, waiting: int, now: float) -> int:
        """Bytes of the chunk that may follow when `waiting` bytes are under way; 0: none yet."""
        ...

    def sent(self, total: int, now: float) -> None:
        """So many bytes have been sent on this stream, in all."""
        ...

    def acknowledged(self, total: int, now: float) -> None:
        """So many of them have arrived."""
        ...

    def starved(self) -> None:
        """There is nothing to send, though there would be room."""
        ...

    def restart(self) -> None:
        """A new stream: nothing is under way on it."""
        ...


class Declared:
    """A link whose shaping sees to all that: chunks of its size, and no other bound."""

    again_at: float | None = None

    def __init__(self, chunk_bytes: int) -> None:
        self._chunk_bytes = chunk_bytes

    def room(self, waiting: int, now: float) -> int:
        return self._chunk_bytes

    def sent(self, total: int, now: float) -> None: ...

    def acknowledged(self, total: int, now: float) -> None: ...

    def starved(self) -> None: ...

    def restart(self) -> None: ...


class Sent(NamedTuple):
    """One frame under way, which ends at byte `end`: when it left, what had arrived then, and when the last of that had left
    and arrived.

    `alone`: nothing else was under way. `starved`: since it was last held back by the window there was nothing to send.
    """

    end: int
    at: float
    arrived: int
    left_at: float
    arrived_at: float
    alone: bool
    starved: bool


class Measured:
    """A way that nobody knows anything about. What was learned outlives a stream.

    The window is the highest rate of the last rounds, times the shortest round trip and a little more. On a way that is not full
    that is more than what is under way, so it grows. On long ways that would take many round trips: there it also grows by
    what arrives, doubling in each, until round trips become longer. After a pause a window would leave all at once, and wait
    where the way is slow; so no more leaves than the way takes by what is known of it, and a quarter more.
    """

    def __init__(self) -> None:
        self.rate: float | None = None
        """Bytes per second that arrive, at best."""
        self.rtt_s = 0.0
        """The shortest round trip."""
        self._rtt_until = 0.0
        self._window = float(WINDOW_FIRST_BYTES)
        self._rates: deque[tuple[int, float]] = deque()
        self._round = 0
        self._under_way: deque[Sent] = deque()
        self._growing = True
        self._through_at = 0.0  # when all that has left is through
        self.again_at: float | None = None
        self.restart()

    def restart(self) -> None:
        self._under_way.clear()
        self._sent = self._arrived = self._starved_to = self._round_to = 0
        self._left_at = self._arrived_at = 0.0

    @property
    def chunk_bytes(self) -> int:
        """What the way takes in 15 ms, and no more than a quarter of the window."""
        rate = CHUNK_MIN_BYTES / CHUNK_S if self.rate is None else self.rate
        return int(max(CHUNK_MIN_BYTES, min(rate * CHUNK_S, self._window / 4, CHUNK_MAX_BYTES)))

    @property
    def window_bytes(self) -> int:
        """What may be under way at once."""
        return int(self._window)

    def room(self, waiting: int, now: float) -> int:
        size, self.again_at = self.chunk_bytes, None
        if not waiting:
            return size
        if self._through_at > now + AHEAD_S / 2:
            self.again_at = self._through_at - AHEAD_S / 2
            return 0
        if now > self._rtt_until and not self._under_way[0].alone:
            return 0  # the way is being emptied, to see how short a round trip is
        return size if waiting + size <= self.window_bytes else 0

    def sent(self, total: int, now: float) -> None:
        alone = not self._under_way
        if alone:
            self._left_at = self._arrived_at = now  # time in which nothing was under way says nothing
        starved = self._arrived <= self._starved_to
        self._under_way.append(Sent(total, now, self._arrived, self._left_at, self._arrived_at, alone, starved))
        if self.rate is not None:
            gain = GROWING_GAIN if self._growing else GAIN
            self._through_at = max(self._through_at, now) + (total - self._sent) / (gain * self.rate)
        self._sent = total

    def starved(self) -> None:
        self._starved_to = self._sent

    def acknowledged(self, total: int, now: float) -> None:
        last, size = None, total - self._arrived
        while self._under_way and self._under_way[0].end <= total:
            last = self._under_way.popleft()
        self._arrived, self._arrived_at = total, now
        if last is not None:
            took_s, self._left_at = now - last.at, last.at
            self._learn_rtt(took_s, last.alone, now)
            self._learn_rate(last, now)
            self._growing = not last.starved and took_s <= self.rtt_s + AHEAD_S / 2
            self._grow(size if self._growing else 0)

    def _learn_rtt(self, took_s: float, alone: bool, now: float) -> None:
        """The shortest since the last one became too old, which is asked for with nothing else under way."""
        stale = now > self._rtt_until
        if took_s <= self.rtt_s or not self._rtt_until or (stale and alone):
            self.rtt_s, self._rtt_until = took_s, now + RTT_S

    def _learn_rate(self, last: Sent, now: float) -> None:
        """The highest of the last rounds. What was sent while there was too little to send can only have been too low.

        Acknowledgements that were held up come all at once; the same bytes left one after the other.
        """
        took_s = max(now - last.arrived_at, last.at - last.left_at, TICK_S)
        rate = (self._arrived - last.arrived) / took_s
        if last.starved and (self.rate is None or rate < self.rate):
            return
        if last.arrived >= self._round_to:
            self._round, self._round_to = self._round + 1, self._arrived
        while self._rates and self._rates[-1][1] <= rate:
            self._rates.pop()
        self._rates.append((self._round, rate))
        while self._rates[0][0] < self._round - ROUNDS:
            self._rates.popleft()
        self.rate = self._rates[0][1]

    def _grow(self, by: int) -> None:
        """`by`: how much more may be tried than what is known to fit."""
        fits = (self.rate or 0.0) * (self.rtt_s + AHEAD_S)
        wanted = max(fits, self._window + by if by else 0.0)
        self._window = min(max(wanted, WINDOW_MIN_BYTES), WINDOW_MAX_BYTES)
