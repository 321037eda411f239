from __future__ import annotations

import statistics
from random import Random

import pytest

from roadtrain.errors import UsageError
from roadtrain.plan import Speeds


def test_listed_speeds_are_taken_in_turn() -> None:
    assert Speeds.parse("1, 2,4").draw(Random(0), 5) == (1.0, 2.0, 4.0, 1.0, 2.0)


def test_uniform_speeds_lie_between_their_ends() -> None:
    drawn = Speeds.parse("uniform:0.5,2").draw(Random(1), 1000)
    assert 0.5 <= min(drawn) < 0.6
    assert 1.9 < max(drawn) <= 2


def test_lognormal_speeds_have_median_1_and_the_deviation_asked_for() -> None:
    drawn = Speeds.parse("lognormal:0.3").draw(Random(2), 4000)
    assert statistics.median(drawn) == pytest.approx(1.0, rel=0.05)
    assert statistics.median(s for s in drawn if s > 1) == pytest.approx(2.718281828 ** (0.6745 * 0.3), rel=0.05)


def test_the_seed_decides() -> None:
    speeds = Speeds.parse("lognormal:0.3")
    assert speeds.draw(Random(3), 4) == speeds.draw(Random(3), 4) != speeds.draw(Random(4), 4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("triangle:1", "known: lognormal, uniform"),
        ("lognorm:1", "'lognormal'"),
        ("uniform:1", "2 number(s)"),
        ("uniform:2,1", "2 is above 1"),
        ("lognormal:-1", "'-1'"),
        ("lognormal:", "''"),
        ("1,fast", "'fast'"),
        ("1,0", "never ends"),
        ("nan", "'nan'"),
        ("", "''"),
    ],
)
def test_what_is_no_speed_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        Speeds.parse(text)
    assert said in refused.value.line()
    assert "\n" not in refused.value.line()
