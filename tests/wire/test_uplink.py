"""What a process can send, as its own traffic tells."""

from __future__ import annotations

import pytest

from roadtrain.wire.uplink import SAMPLE_S, SAMPLES, SAMPLES_MIN, Uplink

MB = 1e6


def burst(uplink: Uplink, start_s: float, seconds: float, rate: float, *, rtt_s: float = 0.1, streams: int = 1) -> None:
    """Something waits for so long, and what left arrives at `rate`, acknowledged every 10 ms by the streams in turn."""
    names = [f"stream {number}" for number in range(streams)]
    for name in names:
        uplink.waits(name)
    for tick in range(round((seconds - rtt_s) / 0.01) + 1):
        uplink.arrived(round(0.01 * rate), start_s + rtt_s + 0.01 * tick)
    for name in names:
        uplink.sends_all(name)
    uplink.arrived(round(rtt_s * rate), start_s + seconds + rtt_s)  # the rest, when nothing waits any more


def test_it_is_the_rate_while_something_waits_however_long_the_way_and_the_pauses() -> None:
    uplink = Uplink()
    for turn in range(40):
        burst(uplink, 30.0 * turn, 0.3, 2.5 * MB, rtt_s=0.2)
    assert uplink.rate == pytest.approx(2.5 * MB, rel=0.01)


def test_it_is_that_of_all_streams_together() -> None:
    uplink = Uplink()
    burst(uplink, 0.0, 5.0, 2.5 * MB, streams=3)
    assert uplink.rate == pytest.approx(2.5 * MB, rel=0.01)


def test_what_is_sent_at_once_says_nothing() -> None:
    uplink = Uplink()
    for turn in range(1000):
        uplink.arrived(1000, float(turn))
    assert uplink.rate is None


def test_nothing_is_known_before_it_was_seen_for_a_while() -> None:
    uplink = Uplink()
    burst(uplink, 0.0, (SAMPLES_MIN - 0.5) * SAMPLE_S, MB)
    assert uplink.rate is None
    burst(uplink, 10.0, SAMPLE_S, MB)
    assert uplink.rate == pytest.approx(MB, rel=0.05)


def test_the_best_stands_while_one_slow_peer_is_still_sent_to() -> None:
    uplink = Uplink()
    burst(uplink, 0.0, 4 * SAMPLE_S, 10 * MB)
    burst(uplink, 10.0, (SAMPLES - 5) * SAMPLE_S, MB)
    assert uplink.rate == pytest.approx(10 * MB, rel=0.05)


def test_a_line_that_has_become_slower_is_followed() -> None:
    uplink = Uplink()
    burst(uplink, 0.0, 4 * SAMPLE_S, 10 * MB)
    burst(uplink, 10.0, (SAMPLES + 2) * SAMPLE_S, MB)
    assert uplink.rate == pytest.approx(MB, rel=0.05)
    burst(uplink, 100.0, 2 * SAMPLE_S, 10 * MB)
    assert uplink.rate == pytest.approx(10 * MB, rel=0.05)


def test_it_goes_on_while_any_stream_waits() -> None:
    uplink = Uplink()
    uplink.waits("a")
    uplink.waits("b")
    uplink.sends_all("a")
    for tick in range(200):
        uplink.arrived(10_000, 0.01 * tick)
    assert uplink.rate == pytest.approx(MB, rel=0.05)
    uplink.sends_all("b")
