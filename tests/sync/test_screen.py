"""What is far from usual is refused, and what only changes is not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from roadtrain.sync.screen import FAR, HISTORY, KNOWN, SAMPLE, STRIKES, STRIKES_TOO_LARGE, TOO_LARGE, Screen


def of_size(size: float) -> Tensor:
    return torch.tensor([size, 0.0])


def after(*sizes: float) -> Screen:
    screen = Screen()
    for size in sizes:
        screen.is_usual(of_size(size))
    return screen


def refused(screen: Screen, *sizes: float) -> set[str]:
    """Of a round, whose mean is usual or not, those that are left out."""
    contributions = {f"w{number}": of_size(size) for number, size in enumerate(sizes)}
    if screen.is_usual(torch.stack(list(contributions.values())).mean(0)):
        return set()
    return set(screen.far(contributions))


USUAL = [1.0] * KNOWN


def test_nothing_is_far_before_it_is_known_what_is_usual() -> None:
    assert refused(after(*USUAL[1:]), 1, 1e9, 1) == set()


@pytest.mark.parametrize("sizes", [(1, 1e6, 1, 1), (1, 1e6), (0, 0, 0, 1e5)])
def test_one_that_is_far_from_the_others_and_from_before(sizes: tuple[float, ...]) -> None:
    assert refused(after(*USUAL), *sizes) == {f"w{sizes.index(max(sizes))}"}


@pytest.mark.parametrize(
    "sizes",
    [
        (1, FAR / 2, 1, 1),  # large, as a loss that leaps makes it
        (1e6, 1e6, 1e6, 1e6),  # all are: the training has changed
        (1, 1e6, 1e6, 1e6),
        (1e4, 1e6, 1e4, 1e4),  # a hundred times the others
    ],
)
def test_what_only_is_large_counts(sizes: tuple[float, ...]) -> None:
    assert refused(after(*USUAL), *sizes) == set()


def test_where_there_was_nothing_anything_may_come() -> None:
    assert refused(after(*[0.0] * HISTORY), 1e9, 0, 0) == set()


def test_a_training_that_grows_is_followed() -> None:
    screen = Screen()
    for step in range(200):
        assert refused(screen, *[1.5**step % 1e30] * 3) == set()


def test_alone_each_time_it_is_usual_when_half_of_the_last_were_like_it() -> None:
    screen = after(*[1.0] * HISTORY)
    outcomes = [refused(screen, 1e6) for _ in range(HISTORY)]
    assert outcomes[0] == {"w0"}
    assert outcomes[-1] == set()


def test_one_of_four_that_contribute_by_themselves_stays_far() -> None:
    screen = after(*[1.0] * HISTORY)
    for _ in range(3 * HISTORY):
        assert refused(screen, 1e6) == {"w0"}
        for size in (1.1, 0.9, 1.0):
            assert refused(screen, size) == set()


def test_a_sample_of_the_values_will_do() -> None:
    screen = Screen()
    values = torch.randn(5 * SAMPLE + 7, generator=torch.Generator().manual_seed(1))
    for _ in range(KNOWN):
        assert screen.is_usual(values)
    assert not screen.is_usual(values * 100)


@pytest.mark.parametrize(("reason", "most"), [(f"it is 1e+06 {TOO_LARGE}", STRIKES_TOO_LARGE), ("not finite", STRIKES)])
@given(outcomes=st.lists(st.booleans(), max_size=40))
def test_a_worker_is_out_after_so_many_refusals_in_a_row(outcomes: list[bool], reason: str, most: int) -> None:
    screen, row = Screen(), 0
    for bad in outcomes:
        row = row + 1 if bad else 0
        assert screen.strike("w0", reason if bad else None) == (row >= most)
        screen.strike("w1", None)


def test_a_loss_scale_has_time_to_fall_to_one() -> None:
    assert 2**STRIKES > 2**15


def test_where_nothing_of_others_counts_nobody_is_out() -> None:
    screen = Screen()
    assert not any(screen.strike(f"w{number % 3}", "not finite") for number in range(90))
