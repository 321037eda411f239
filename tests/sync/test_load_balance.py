"""Work by speed: shares, and the local steps that they make."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadtrain.plan import parse
from roadtrain.sync.load_balance import SAME, LoadBalance, shares
from roadtrain.sync.strategy import strategy_for

BY_SPEED = strategy_for(parse('[sync]\nstrategy = "diloco:20"\nby_speed = true\n'))
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


@given(st.floats(0.01, 9.0), st.integers(1, 200))
def test_local_steps_follow_the_share_and_lose_nothing(share: float, steps: int) -> None:
    pace = LoadBalance(BY_SPEED)
    pace.accept(share)
    taken = [pace.begin(9) for _ in range(steps)]
    for left in reversed(range(taken[-1])):
        pace.next_batch(9)
        assert pace.last == (left == 0)
    assert max(taken) - min(taken) <= 1, "they are spread evenly"
    assert abs(sum(taken) - share * steps) <= 1


@pytest.mark.parametrize("nonsense", [0.0, -2.0, math.nan, math.inf, 1e300])
def test_a_share_that_cannot_be_is_not_believed(nonsense: float) -> None:
    pace = LoadBalance(BY_SPEED)
    pace.accept(2.0)
    pace.accept(nonsense)
    assert pace.begin(9) == 2


def test_speed_is_that_of_the_last_steps() -> None:
    pace = LoadBalance(BY_SPEED)
    for _ in range(100):
        pace.next_batch(0)
        pace.measure(32, 1.0)
    assert pace.speed == pytest.approx(32)
    for _ in range(300):
        pace.measure(32, 0.25)
    assert pace.speed == pytest.approx(128, rel=0.02)


def test_the_first_step_which_takes_longer_is_forgotten_with_the_second() -> None:
    pace = LoadBalance(BY_SPEED)
    for busy_s in (9.0, 0.5):
        assert pace.begin(0) == 1, "in the warm-up all take the same steps"
        pace.next_batch(0)
        pace.measure(32, busy_s)
    assert pace.speed == 64


def test_without_it_every_step_is_one_local_step_on_its_own_batch() -> None:
    pace = LoadBalance(replace(BY_SPEED, by_speed=False))
    pace.accept(3.0)
    pace.measure(32, 1.0)
    assert pace.begin(9) == 1
    assert pace.next_batch(17) == 17
    assert pace.speed == 0.0
    assert pace.state() == {}


def test_batches_are_taken_one_after_the_other_and_a_resumed_worker_goes_on_with_them() -> None:
    pace = LoadBalance(BY_SPEED)
    pace.accept(2.5)
    first = [pace.next_batch(step) for step in range(4) for _ in range(pace.begin(9))]
    pace.measure(32, 0.5)
    resumed = LoadBalance(BY_SPEED)
    resumed.load(pace.state())
    then = [resumed.next_batch(step) for step in range(4, 8) for _ in range(resumed.begin(9))]
    assert first + then == list(range(20))
    assert resumed.speed == pace.speed == 64
