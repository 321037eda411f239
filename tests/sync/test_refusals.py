"""Which contributions were left out for good, and of which fragments nothing was accepted since."""

from __future__ import annotations

from roadtrain.sync.effects import Committed, Refused
from roadtrain.sync.refusals import Refusals

WHY = "a contribution is not finite"


def test_since_the_first_clock_of_which_nothing_was_accepted() -> None:
    refusals = Refusals()
    refusals.take([Committed(0, 1, ("a", "b"))])
    for clock in (2, 3):
        left_out = refusals.take([Refused(0, "a", clock, WHY), Refused(0, "b", clock, WHY), Committed(0, clock, ())])
        assert [(each.worker, each.clock) for each in left_out] == [("a", clock), ("b", clock)]
    assert refusals.since == {0: 2}
    refusals.take([Committed(0, 4, ("b",))])
    assert refusals.since == {}


def test_one_of_two_that_is_refused_is_left_out_and_the_fragment_goes_on() -> None:
    refusals = Refusals()
    assert len(refusals.take([Refused(1, "a", 1, WHY), Committed(1, 1, ("b",))])) == 1
    assert refusals.since == {}


def test_what_was_refused_and_is_in_no_commit_may_come_again() -> None:
    assert Refusals().take([Refused(0, "a", 5, "clock 5 after 3")]) == []


def test_a_round_without_a_contribution_refuses_nothing() -> None:
    refusals = Refusals()
    refusals.take([Committed(0, 1, ())])
    assert refusals.since == {}
