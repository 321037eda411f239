"""Silence is death when the window of heartbeats makes it unbelievable, and not before."""

from __future__ import annotations

from random import Random

import pytest

from roadtrain.membership.detector import SILENT_MIN_S, Detector


def beating(random: Random, seconds: float, jitter_s: float) -> tuple[Detector, float, int]:
    """A worker that beats every second, each beat up to `jitter_s` late; whether it was ever taken for dead meanwhile."""
    detector, deaths = Detector(1.0, 0.0), 0
    arrivals = sorted(second + random.random() * jitter_s for second in range(1, int(seconds)))
    now = 0.0
    for arrival in arrivals:
        while now < arrival:
            deaths += detector.dead(now)
            now += 0.1
        detector.beat(arrival)
    return detector, arrivals[-1], deaths


@pytest.mark.parametrize("jitter_s", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("seed", range(5))
def test_no_false_death_in_ten_minutes_and_a_silent_one_is_dead_after_three_seconds(jitter_s: float, seed: int) -> None:
    detector, last, deaths = beating(Random(seed), 600.0, jitter_s)
    assert deaths == 0
    assert not detector.dead(last + SILENT_MIN_S)
    assert detector.dead(last + 3.0 + jitter_s)


def test_phi_grows_with_silence_and_has_an_end() -> None:
    detector, last, _ = beating(Random(0), 50.0, 0.1)
    phis = [detector.phi(last + seconds) for seconds in (0.5, 1.0, 1.5, 2.0)]
    assert phis == sorted(phis)
    assert detector.phi(last + 1e9) == float("inf")


def test_what_nobody_listened_to_is_no_silence() -> None:
    detector, last, _ = beating(Random(0), 50.0, 0.0)
    detector.excuse(30.0)
    assert not detector.dead(last + 30.0 + SILENT_MIN_S)
    assert detector.dead(last + 33.5)


def test_a_line_that_stalls_now_and_then_is_given_more_time() -> None:
    """As under a transfer that fills it: the window learns."""
    detector = Detector(1.0, 0.0)
    now = 0.0
    for beat in range(100):
        now += 2.2 if beat % 4 == 0 else 0.6
        detector.beat(now)
    assert not detector.dead(now + 3.0)
    assert detector.dead(now + 8.0)
