"""Strategies as a plan makes them: when workers contribute, and the outer settings."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadtrain.plan import Plan
from roadtrain.sync.strategy import Strategy, strategy_for


def strategy(name: str, *, warmup: int = 0, steps: int = 1000) -> Strategy:
    plan = Plan()
    return strategy_for(
        replace(plan, job=replace(plan.job, steps=steps), sync=replace(plan.sync, strategy=name, warmup=warmup))
    )


@pytest.mark.parametrize(
    ("warmup", "begun", "ends"),
    [
        (0, 0, [4, 8, 12]),
        (3, 0, [1, 2, 3, 7, 11]),
        (3, 1, [2, 3, 7, 11]),
        (3, 3, [7, 11]),
        (3, 5, [9, 13]),
        (20, 0, list(range(1, 14))),
    ],
)
def test_periods_end(warmup: int, begun: int, ends: list[int]) -> None:
    """`begun`: a run that is resumed begins a period where it was stopped."""
    chosen = strategy("localsgd:4", warmup=warmup)
    assert [step for step in range(begun + 1, 14) if chosen.ends_period(step, begun)] == ends
    assert [chosen.steps_of(count, begun) for count in range(1, len(ends) + 1)] == ends


@given(st.integers(1, 9), st.integers(0, 12), st.integers(0, 15), st.integers(0, 40))
def test_contributions_and_steps_are_each_others_reverse(every: int, warmup: int, begun: int, more: int) -> None:
    chosen = strategy(f"diloco:{every}", warmup=warmup)
    count = chosen.contributions(begun + more, begun)
    assert chosen.steps_of(count, begun) >= begun + more, "the last period may be short"
    assert chosen.steps_of(count - 1, begun) < begun + more or count == 0
    assert chosen.contributions(chosen.steps_of(count, begun), begun) == count


def test_outer_settings_go_by_the_rounds_after_the_warm_up_and_by_their_length() -> None:
    def outer(period: int, steps: int, warmup: int) -> tuple[float, float]:
        rule = strategy(f"diloco:{period}", warmup=warmup, steps=steps).rule
        return rule.lr, rule.momentum

    assert outer(50, 5000, 0) == (0.7, 0.9)
    assert outer(50, 4950, 0) == (1.0, 0.0)
    assert outer(50, 5000, 500) == (1.0, 0.0), "90 rounds are left"
    assert outer(50, 5500, 500) == (0.7, 0.9)
    assert outer(49, 50_000, 0) == (1.0, 0.0), "short periods resemble each other"
