from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roadtrain.sync.consistency import admits, closes, lead, slowest

names = st.sampled_from("abcdef")


def test_a_round_closes_when_every_member_is_in() -> None:
    clocks = {"a": 0, "b": 0, "c": 4, "gone": 3}
    assert not closes(set(), clocks, ["a", "b"], 0)
    assert not closes({"a"}, clocks, ["a", "b"], 0)
    assert closes({"a", "b"}, clocks, ["a", "b"], 0)
    assert closes({"a", "b", "gone"}, clocks, ["a", "b"], 0)
    assert not closes({"a", "gone"}, clocks, ["a", "b"], 0)
    assert closes({"a", "b"}, clocks, ["a", "b", "newcomer"], 0), "who has not begun is not waited for"
    assert closes({"a", "c"}, clocks, ["a", "b", "c"], 1), "the slowest is left out"
    assert not closes({"a"}, clocks, ["a", "b", "c"], 1)
    assert not closes({"gone"}, clocks, ["a"], 1), "a round needs somebody who is here"


def test_lead_counts_from_the_slowest_member() -> None:
    assert slowest({"a": 5, "b": 3}, ["a", "b"], 9) == 3
    assert slowest({"a": 2}, ["a", "newcomer"], 9) == 2, "who has not begun holds nobody back"
    assert slowest({"a": 5, "b": 3, "gone": 0}, ["a", "b"], 9) == 3, "the lost hold nobody back"
    assert slowest({}, [], 9) == 9
    assert lead(5, 3) == 2
    assert lead(3, 3) == lead(3, 5) == 0


def test_the_gate() -> None:
    assert admits(0, 0)
    assert not admits(1, 0)
    assert admits(2, 2)
    assert not admits(3, 2)
    assert admits(10_000, None)


@given(st.dictionaries(names, st.integers(0, 20)), st.sets(names, min_size=1), st.integers(0, 5))
def test_the_slowest_member_may_always_go_on(clocks: dict[str, int], members: set[str], staleness: int) -> None:
    part = members & clocks.keys()
    ahead = {member: lead(clocks[member], slowest(clocks, members, 0)) for member in part}
    assert all(a == clocks[m] - min(clocks[n] for n in part) for m, a in ahead.items())
    assert not part or any(admits(a, staleness) for a in ahead.values())
