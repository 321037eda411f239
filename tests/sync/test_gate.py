from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roadtrain.sync.gate import admits, closes, lead

names = st.sampled_from("abcdef")


def test_a_round_closes_when_every_member_is_in() -> None:
    assert not closes(set(), ["a", "b"])
    assert not closes({"a"}, ["a", "b"])
    assert closes({"a", "b"}, ["a", "b"])
    assert closes({"a", "b", "gone"}, ["a", "b"])
    assert not closes({"a", "gone"}, ["a", "b"])


def test_lead_counts_from_the_slowest_member() -> None:
    assert lead(5, {"a": 5, "b": 3}, ["a", "b"]) == 2
    assert lead(3, {"a": 5, "b": 3}, ["a", "b"]) == 0
    assert lead(2, {"a": 2}, ["a", "b"]) == 2, "who has not begun is at clock 0"
    assert lead(5, {"a": 5, "b": 3, "gone": 0}, ["a", "b"]) == 2, "the lost hold nobody back"
    assert lead(4, {}, []) == 0


def test_the_gate() -> None:
    assert admits(0, 0)
    assert not admits(1, 0)
    assert admits(2, 2)
    assert not admits(3, 2)
    assert admits(10_000, None)


@given(st.dictionaries(names, st.integers(0, 20)), st.sets(names, min_size=1), st.integers(0, 5))
def test_the_slowest_member_may_always_go_on(clocks: dict[str, int], members: set[str], staleness: int) -> None:
    ahead = {member: lead(clocks.get(member, 0), clocks, members) for member in members}
    assert min(ahead.values()) == 0
    assert any(admits(a, staleness) for a in ahead.values())
    assert all(a == clocks.get(m, 0) - min(clocks.get(n, 0) for n in members) for m, a in ahead.items())
