"""Which fragments are held twice."""

from __future__ import annotations

from roadtrain.membership.messages import Holds
from roadtrain.membership.redundancy import Redundancy
from roadtrain.membership.view import without
from roadtrain.view import Member, View

FIRST = View(1, (Member("a", 1), Member("b", 2), Member("c", 3)), ("a", "b"), ("b", "c"))
SIZES = (8, 8)


def test_all_are_in_the_first_view() -> None:
    made = Redundancy()
    made.begin(FIRST)
    assert made.whole(FIRST)


def test_a_new_standby_holds_nothing_before_it_says_so_in_a_view_that_has_it() -> None:
    made = Redundancy()
    made.begin(FIRST)
    after = without(FIRST, ["c"], SIZES)
    made.change(FIRST, after)
    assert not made.whole(after)
    made.holds(after, "a", Holds(1, 1))
    assert not made.whole(after), "said of an earlier view"
    made.holds(after, "b", Holds(2, 1))
    assert not made.whole(after), "said by another"
    made.holds(after, "a", Holds(2, 1))
    assert made.whole(after)


def test_a_standby_that_has_to_be_given_its_state_anew_holds_nothing() -> None:
    made = Redundancy()
    made.begin(FIRST)
    made.holds(FIRST, "a", Holds(1, 0, whole=False))
    assert made.whole(FIRST), "it is no standby of that"
    made.holds(FIRST, "b", Holds(1, 0, whole=False))
    assert not made.whole(FIRST)
    made.holds(FIRST, "b", Holds(1, 0))
    assert made.whole(FIRST)


def test_what_is_not_held_is_known_to_whoever_recalls_it() -> None:
    made, other = Redundancy(), Redundancy()
    made.begin(FIRST)
    after = without(FIRST, ["c"], SIZES)
    made.change(FIRST, after)
    made.stand_in(1, "b", owns=True)
    other.recall(made.awaited())
    assert other.awaited() == made.awaited()
    assert other.former == {1: "b"}
    other.holds(after, "a", Holds(2, 1))
    assert other.due(after) == [1]
