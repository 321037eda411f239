"""Work by speed: what each worker measures, and the shares that follow."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadtrain.sync.load_balance import SAME, Speedometer, shares

SPEEDS = st.lists(st.floats(0.01, 1e6), min_size=1, max_size=20)


@given(SPEEDS)
def test_shares_go_by_speed_and_add_up_to_the_number_of_workers(speeds: list[float]) -> None:
    by_worker = {f"w{i}": speed for i, speed in enumerate(speeds)}
    given = list(shares(by_worker).values())
    assert math.fsum(given) == pytest.approx(len(speeds))
    if max(speeds) > SAME * min(speeds):
        assert [share / given[0] for share in given] == pytest.approx([speed / speeds[0] for speed in speeds])


@given(st.floats(0.01, 1e6), st.lists(st.floats(1.0, SAME - 0.001), min_size=1, max_size=20))
def test_what_is_noise_moves_no_work(slowest: float, factors: list[float]) -> None:
    speeds = {f"w{i}": slowest * factor for i, factor in enumerate([1.0, *factors])}
    assert shares(speeds) == dict.fromkeys(speeds, 1.0)


@pytest.mark.parametrize("unknown", [0.0, -1.0, math.nan, math.inf])
def test_a_speed_that_nobody_can_have_leaves_all_shares_open(unknown: float) -> None:
    assert shares({"a": 1.0, "b": unknown}) == shares({"a": unknown, "b": 1.0}) == {}


def test_speed_is_that_of_the_last_steps() -> None:
    pace = Speedometer(by_speed=True)
    for _ in range(100):
        pace.measure(32, 1.0)
    assert pace.speed == pytest.approx(32)
    for _ in range(300):
        pace.measure(32, 0.25)
    assert pace.speed == pytest.approx(128, rel=0.02)


def test_the_first_step_which_takes_longer_is_forgotten_with_the_second() -> None:
    pace = Speedometer(by_speed=True)
    for busy_s in (9.0, 0.5):
        pace.measure(32, busy_s)
    assert pace.speed == 64


def test_nothing_is_measured_where_work_is_not_given_out_by_speed() -> None:
    pace = Speedometer(by_speed=False)
    pace.measure(32, 1.0)
    assert pace.speed == 0.0
    assert pace.state() == {}


def test_a_resumed_worker_knows_its_speed() -> None:
    pace, resumed = Speedometer(by_speed=True), Speedometer(by_speed=True)
    for _ in range(3):
        pace.measure(32, 0.5)
    resumed.load(pace.state())
    assert resumed.speed == pace.speed == 64
    resumed.measure(32, 5.0)
    assert resumed.speed > 15, "one slow step does not make it slow"
