"""What is learned of a way, on ways that are made here: so many bytes a second, after so long."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadtrain.wire.pace import (
    AHEAD_MAX_BYTES,
    AHEAD_S,
    ASK_AGAIN_S,
    ASKED,
    CHUNK_MAX_BYTES,
    CHUNK_MIN_BYTES,
    CHUNK_S,
    FAST,
    FAST_AHEAD_S,
    HELD_UP_MAX_S,
    RTT_S,
    WINDOW_FIRST_BYTES,
    WINDOW_MAX_BYTES,
    WINDOW_MIN_BYTES,
    Declared,
    Measured,
)


class Way:
    """A line of `rate` bytes per second and `rtt_s` there and back, which a sender fills as its pace allows."""

    def __init__(self, pace: Measured, rate: float, rtt_s: float) -> None:
        self.pace, self.rate, self.rtt_s = pace, rate, rtt_s
        self.now = 100.0
        self.sent = self.arrived = 0
        self.free_s = 0.0
        self.acks: deque[tuple[float, int]] = deque()
        self.waited_s: list[float] = []
        self.chunks: list[int] = []

    def send(self, size: int) -> None:
        """A message of `size` bytes, until the last of it has been sent."""
        left = size
        while left:
            room = self.pace.room(self.sent - self.arrived, self.now)
            if room:
                room = min(room, left)
                left -= room
                self._put(room)
            else:
                self.advance()

    def _put(self, size: int) -> None:
        self.free_s = max(self.free_s, self.now)
        self.waited_s.append(self.free_s - self.now)
        self.chunks.append(size)
        self.free_s += size / self.rate
        self.sent += size
        self.pace.sent(self.sent, self.now)
        self.acks.append((self.free_s + self.rtt_s, self.sent))

    def advance(self) -> None:
        """Until something is acknowledged, or the pace wants to be asked again."""
        again = self.pace.again_at
        if again is not None and (not self.acks or again < self.acks[0][0]):
            self.now = max(self.now, again)
            return
        self.now, self.arrived = self.acks.popleft()
        self.pace.acknowledged(self.arrived, self.now)

    def drain(self) -> None:
        """There is nothing more to send."""
        self.pace.starved()
        self.pace.again_at = None
        while self.acks:
            self.advance()


WAIT_S, FAST_WAIT_S = 0.07, 0.65
"""About 50 ms, and about half a second where the way is fast; with a chunk's time."""
WAYS = [(1.25e6, 0.02), (1.25e6, 0.2), (2.5e6, 0.05), (12.5e6, 0.06), (125e6, 0.001), (125e6, 0.03)]


@pytest.mark.parametrize(("rate", "rtt_s"), WAYS)
def test_a_way_is_filled_and_little_waits(rate: float, rtt_s: float) -> None:
    way = Way(Measured(), rate, rtt_s)
    way.send(int(rate * 2))
    way.drain()
    assert way.pace.rate == pytest.approx(rate, rel=0.05)
    assert way.pace.rtt_s == pytest.approx(rtt_s, abs=0.02)
    way.waited_s.clear()
    way.chunks.clear()
    begun = way.now
    way.send(int(rate * 4))
    way.drain()
    assert way.now - begun < 1.1 * 4 + rtt_s, "it is full"
    assert max(way.waited_s) < (FAST_WAIT_S if rate > FAST else WAIT_S)
    assert max(way.chunks) <= max(CHUNK_MIN_BYTES, 1.05 * CHUNK_S * rate * (2 if rate > FAST else 1))


def test_what_waits_on_an_unknown_way_is_little() -> None:
    way = Way(Measured(), 1.25e6, 0.02)
    way.send(4_000_000)
    assert max(way.waited_s) < WAIT_S


@pytest.mark.parametrize("rtt_s", [0.06, 0.2])
def test_a_long_way_is_filled_within_a_dozen_round_trips(rtt_s: float) -> None:
    rate = 0.9 * WINDOW_MAX_BYTES / rtt_s
    way = Way(Measured(), rate, rtt_s)
    while way.now < 100 + 12 * rtt_s:
        way.send(CHUNK_MAX_BYTES)
    assert way.pace.window_bytes > 0.9 * rate * rtt_s


@pytest.mark.parametrize(("rate", "rtt_s"), [(37.5e6, 0.04), (125e6, 0.02), (125e6, 0.05)])
def test_on_a_fast_way_no_more_waits_than_a_few_chunks(rate: float, rtt_s: float) -> None:
    way = Way(Measured(), rate, rtt_s)
    for _ in range(100):
        way.send(CHUNK_MAX_BYTES)
    more = way.pace.window_bytes - rate * rtt_s
    assert AHEAD_MAX_BYTES * 0.99 < more < (AHEAD_MAX_BYTES + CHUNK_MAX_BYTES) * 1.01


def test_little_that_was_sent_in_between_says_nothing_about_the_way() -> None:
    way = Way(Measured(), 12.5e6, 0.02)
    way.send(25_000_000)
    way.drain()
    learned = way.pace.rate
    for _ in range(100):
        way.now += 0.1
        way.send(60)
        way.drain()
    assert way.pace.rate == learned


@pytest.mark.parametrize("rate", [12.5e6, 125e6])
def test_a_way_that_becomes_slower_is_noticed(rate: float) -> None:
    way = Way(Measured(), rate, 0.02)
    way.send(int(2 * rate))
    way.drain()
    way.rate /= 10
    way.send(int(2 * rate))
    way.drain()
    assert way.pace.rate == pytest.approx(way.rate, rel=0.1)
    chunk_s = CHUNK_S * (2 if way.rate > FAST else 1)
    ahead_s = FAST_AHEAD_S + HELD_UP_MAX_S if way.rate > FAST else AHEAD_S
    assert way.pace.window_bytes < 1.1 * way.rate * (0.02 + 2 * chunk_s + ahead_s), "of what waits, two are chunks"


def test_a_way_that_becomes_longer_is_noticed_amid_a_long_message() -> None:
    way = Way(Measured(), 12.5e6, 0.02)
    way.send(12_500_000)
    way.rtt_s = 0.2
    way.send(int(12.5e6 * (RTT_S + 15)))
    assert 0.2 <= way.pace.rtt_s < 0.21 + 2 * CHUNK_S, "with a chunk's time"
    assert way.pace.window_bytes > 12.5e6 * 0.2


class Slowed(Way):
    """The kernel looks for its shortest round trip when the way is empty, too, and sends hardly anything meanwhile."""

    slowed_at = 0.0
    longest_s = 0.0

    def _put(self, size: int) -> None:
        slowed = not self.acks and self.now > self.slowed_at + 1
        self.rtt_s = 0.1 if slowed else 0.02
        self.slowed_at = self.now if slowed else self.slowed_at
        super()._put(size)
        if len(self.acks) > 1:
            self.acks[-1] = max(self.acks[-1][0], self.acks[-2][0]), self.sent
        self.longest_s = max(self.longest_s, self.pace.rtt_s)


def test_a_round_trip_that_was_long_once_is_not_believed_amid_a_long_message() -> None:
    way = Slowed(Measured(), 1.25e6, 0.02)
    way.send(12_500_000)
    way.longest_s = 0.0
    way.send(int(1.25e6 * 3 * RTT_S))
    assert way.longest_s < 0.02 + CHUNK_S + AHEAD_S


def test_a_round_trip_that_stays_long_is_believed_soon() -> None:
    way = Way(Measured(), 1.25e6, 0.02)
    way.send(2_500_000)
    way.drain()
    way.now += RTT_S + 0.1
    way.rtt_s = 0.1
    for _ in range(ASKED):
        way.send(CHUNK_MIN_BYTES)
        way.drain()
        way.now += ASK_AGAIN_S
    assert way.pace.rtt_s == pytest.approx(0.1, abs=0.01)


class Busy(Way):
    """The receiver's processors have other work: it answers every 80 ms, whatever came in meanwhile."""

    def advance(self) -> None:
        again, answer_at = self.pace.again_at, (int(self.now / 0.08) + 1) * 0.08
        if again is not None and again < answer_at:
            self.now = max(self.now, again)
            return
        self.now = answer_at
        while self.acks and self.acks[0][0] <= answer_at:
            self.arrived = self.acks.popleft()[1]
        self.pace.acknowledged(self.arrived, self.now)


@pytest.mark.parametrize("rate", [1.25e6, 12.5e6])
def test_acknowledgements_that_are_held_up_leave_the_way_nearly_full(rate: float) -> None:
    way = Busy(Measured(), rate, 0.02)
    way.send(int(8 * rate))
    begun = way.now
    way.send(int(4 * rate))
    assert way.now - begun < 1.25 * 4


def test_what_was_learned_outlives_a_stream() -> None:
    way = Way(Measured(), 12.5e6, 0.02)
    way.send(12_500_000)
    learned = way.pace.rate, way.pace.window_bytes
    way.pace.restart()
    assert (way.pace.rate, way.pace.window_bytes) == learned
    again = Way(way.pace, 12.5e6, 0.02)
    again.send(1_000_000)
    again.drain()
    assert way.pace.rate == pytest.approx(12.5e6, rel=0.05)


@given(
    st.lists(st.tuples(st.integers(1, 3_000_000), st.floats(0, 30)), max_size=30), st.floats(1e4, 1e10), st.floats(0, 1)
)
def test_whatever_is_sent_and_when_bounds_hold(bursts: list[tuple[int, float]], rate: float, rtt_s: float) -> None:
    pace = Measured()
    assert pace.window_bytes == WINDOW_FIRST_BYTES
    way = Way(pace, rate, rtt_s)
    for size, pause_s in bursts:
        way.send(size)  # which ends: there is room, or something is under way
        assert way.sent - way.arrived <= WINDOW_MAX_BYTES
        assert WINDOW_MIN_BYTES <= pace.window_bytes <= WINDOW_MAX_BYTES
        assert CHUNK_MIN_BYTES <= pace.chunk_bytes <= CHUNK_MAX_BYTES
        way.pace.starved()
        way.pace.again_at, later = None, way.now + pause_s
        while way.acks and way.acks[0][0] <= later:
            way.advance()
        way.now = later


def test_a_declared_link_has_chunks_of_its_own_and_no_other_bound() -> None:
    pace = Declared(6250)
    pace.sent(10**9, 0.0)
    assert pace.room(10**9, 1.0) == 6250
