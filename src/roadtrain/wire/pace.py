"""How much may be under way to a peer, and in what chunks: measured on the way, or as a declared link wants it.

gRPC and the kernel take megabytes before they make a sender wait, and what they hold nothing can overtake. So no more is handed
to them than the way there holds, and 40 ms of it: a control message waits for no more than that. Beyond 40 Mbit/s it may wait
for half a second: there the kernel has enough to go on while the processors of either end are busy, and sees to an even flow.
What the way holds is measured as BBR does it (Cardwell et al. 2016, ACM Queue 14-5), from the receiver's acknowledgements.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple, Protocol

AHEAD_S = 0.0125
"""Seconds' worth of bytes that may wait on the way, beyond those that travel; a chunk's time is in the round trip that is
seen. Twice as many carried no more over 10 Mbit/s."""
CHUNK_S = 0.025
"""Seconds that a chunk takes."""
FAST = 5e6
"""Bytes per second from which a way is fast: there bytes cost the processors more than control waits for. A chunk may take
twice as long,"""
FAST_AHEAD_S = 0.5
"""and so much may wait. Four hosts on two cores that answered each other in rounds then waited 0.57 to 0.60 s a step, with 25 ms
0.62 s."""
AHEAD_MAX_BYTES = 5 << 20
"""But no more than this, however fast the way. It is two chunks and a half; each counts as under way until all of it is there."""
CHUNK_MIN_BYTES, CHUNK_MAX_BYTES = 8 << 10, 2 << 20
"""Each chunk costs both ends a turn of the loop and of gRPC's threads, in processor time that training may want."""
WINDOW_FIRST_BYTES, WINDOW_MIN_BYTES, WINDOW_MAX_BYTES = 64 << 10, 32 << 10, 16 << 20
"""The first is 50 ms at 10 Mbit/s, the most 1 Gbit/s over 80 ms and what may wait. With half as much a relay 40 ms away carried
0.74 of 1 Gbit/s."""
ROUNDS = 10
"""Round trips for which the highest rate seen stands."""
RTT_S = 10.0
"""Seconds for which the shortest round trip seen stands; then the way is emptied to see it again, as ways change."""
ASKED, ASK_AGAIN_S = 4, 0.3
"""How often a much longer round trip is seen before it is believed, and seconds in between when the way is emptied for it: every
10 s the kernel's own BBR slows down for 200 ms, and what is seen then is too long."""
GAIN, GROWING_GAIN = 1.25, 3.0
"""How fast bytes may leave, as multiples of the rate: enough to see a higher one, and to double a window in a round trip."""
HELD_UP_MAX_S = 0.1
"""Seconds' worth of bytes that may be under way besides, where acknowledgements are held up and come together."""
SLOWED_S = 1.0
"""An acknowledgement that comes so much later than a round trip says that the way has become slower."""
TICK_S = 1e-6
"""Shortest time that is told from none."""


class Pace(Protocol):
    """Of one direction to one peer. Times in seconds, on the caller's clock."""

    rate: float | None
    """Bytes per second that arrive, at best; None: not measured."""
    rtt_s: float
    """The shortest round trip; 0: not measured."""
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

    rate: float | None = None
    rtt_s = 0.0
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
    what arrives, doubling in each, until round trips become longer. A burst does not begin so, once the way has been full: what
    it sends at once, routers would have to hold, or drop. After a pause a window would leave all at once, and wait where the way
    is slow; so there no more leaves than the way takes by what is known of it, and a quarter more.
    """

    def __init__(self) -> None:
        self.rate: float | None = None
        """Bytes per second that arrive, at best."""
        self.rtt_s = 0.0
        """The shortest round trip."""
        self._rtt_until = 0.0
        self._longer_s, self._longer = math.inf, 0  # the shortest since then, and how many
        self._window = float(WINDOW_FIRST_BYTES)
        self._rates: deque[tuple[int, float]] = deque()
        self._round = 0
        self._under_way: deque[Sent] = deque()
        self._growing = True
        self._known = False  # the way has been full
        self._held_up: deque[tuple[int, float]] = deque()
        self._through_at = 0.0  # when all that has left is through
        self.again_at: float | None = None
        self.restart()

    def restart(self) -> None:
        self._under_way.clear()
        self._sent = self._arrived = self._starved_to = self._round_to = 0
        self._left_at = self._arrived_at = 0.0
        self._epoch_at = self._epoch_bytes = 0.0

    @property
    def _fast(self) -> bool:
        return self.rate is not None and self.rate > FAST

    @property
    def chunk_bytes(self) -> int:
        """What the way takes in 25 ms, twice that where it is fast, and no more than a third of the window."""
        rate = CHUNK_MIN_BYTES / CHUNK_S if self.rate is None else self.rate
        seconds = CHUNK_S * (2 if self._fast else 1)
        return int(max(CHUNK_MIN_BYTES, min(rate * seconds, self._window / 3, CHUNK_MAX_BYTES)))

    @property
    def window_bytes(self) -> int:
        """What may be under way at once."""
        return int(self._window)

    def room(self, waiting: int, now: float) -> int:
        size, self.again_at = self.chunk_bytes, None
        if not waiting:
            return size
        if self._through_at > now + AHEAD_S / 2 and not self._fast:
            self.again_at = self._through_at - AHEAD_S / 2
            return 0
        if now > self._rtt_until and not self._under_way[0].alone:
            return 0  # the way is being emptied, to see how short a round trip is
        return size if waiting + size <= self.window_bytes else 0

    def sent(self, total: int, now: float) -> None:
        alone = not self._under_way
        if alone:
            self._left_at = self._arrived_at = now  # time in which nothing was under way says nothing
            self._growing = self._growing and not self._known
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
        self._learn_held_up(size, now)
        if last is not None:
            took_s, self._left_at = now - last.at, last.at
            self._learn_rtt(took_s, last.alone, now)
            self._learn_rate(last, now)
            full = took_s > self.rtt_s + AHEAD_S / 2
            self._known = self._known or (full and not last.starved)
            self._growing = not (full or last.starved)
            self._grow(size if self._growing else 0)

    def _learn_rtt(self, took_s: float, alone: bool, now: float) -> None:
        """The shortest since the last one became too old. Longer ones are those of what was alone on the way, and a much longer
        one is believed when it was so again and again: what came alone by itself counts, else the way is emptied for it."""
        if took_s <= self.rtt_s or not self._rtt_until:
            self._longer_s, self._longer = took_s, 1
        else:
            if alone:
                self._longer_s, self._longer = min(took_s, self._longer_s), self._longer + 1
            if now <= self._rtt_until:
                return
            if self._longer < ASKED and not (alone and took_s <= self.rtt_s + AHEAD_S / 2):
                self._rtt_until = now + ASK_AGAIN_S if alone else self._rtt_until
                return
        self.rtt_s, self._rtt_until = self._longer_s, now + RTT_S
        self._longer_s, self._longer = math.inf, 0

    def _learn_rate(self, last: Sent, now: float) -> None:
        """The highest of the last rounds. What was sent while there was too little to send can only have been too low.

        Acknowledgements that were held up come all at once; the same bytes left one after the other.
        """
        took_s = max(now - last.arrived_at, last.at - last.left_at, TICK_S)
        rate = (self._arrived - last.arrived) / took_s
        if last.starved and (self.rate is None or rate < self.rate):
            return
        if now - last.at > self.rtt_s + SLOWED_S:
            self._rates.clear()
            self._held_up.clear()
        if last.arrived >= self._round_to:
            self._round, self._round_to = self._round + 1, self._arrived
        while self._rates and self._rates[-1][1] <= rate:
            self._rates.pop()
        self._rates.append((self._round, rate))
        while self._rates[0][0] < self._round - ROUNDS:
            self._rates.popleft()
        if self.rate is not None and self._rates[0][1] < self.rate:
            self._epoch_at, self._epoch_bytes = now, 0.0  # what came while the way was faster was not held up
        self.rate = self._rates[0][1]

    def _learn_held_up(self, size: int, now: float) -> None:
        """How many bytes more than the rate allows are acknowledged at once, at most: a host whose processors are busy takes in
        what has arrived a little later, all together (as BBR's `extra_acked`)."""
        if self.rate is None:
            return
        due = self.rate * (now - self._epoch_at)
        if self._epoch_bytes <= due:
            self._epoch_at, self._epoch_bytes, due = now, 0.0, 0.0
        self._epoch_bytes += size
        more = min(self._epoch_bytes - due, self.rate * HELD_UP_MAX_S)
        while self._held_up and self._held_up[-1][1] <= more:
            self._held_up.pop()
        self._held_up.append((self._round, more))
        while self._held_up[0][0] < self._round - ROUNDS:
            self._held_up.popleft()

    def _grow(self, by: int) -> None:
        """`by`: how much more may be tried than what is known to fit."""
        held_up = self._held_up[0][1] if self._held_up else 0.0
        ahead_s = FAST_AHEAD_S if self._fast else AHEAD_S
        rate = self.rate or 0.0
        fits = rate * self.rtt_s + min(rate * ahead_s, AHEAD_MAX_BYTES) + held_up
        wanted = max(fits, self._window + by if by else 0.0)
        self._window = min(max(wanted, WINDOW_MIN_BYTES), WINDOW_MAX_BYTES)
