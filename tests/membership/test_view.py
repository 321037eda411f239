from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadtrain.errors import RunFailed
from roadtrain.membership.view import first_view, without
from roadtrain.view import Member, View


def members(count: int) -> list[Member]:
    return [Member(f"w{i}", i + 1) for i in range(count)]


def load(view: View, sizes: list[int]) -> dict[str, int]:
    carried = dict.fromkeys(view.peers, 0)
    for owner, size in zip(view.owners, sizes, strict=True):
        carried[owner] += size
    return carried


fleets = st.tuples(st.integers(1, 6), st.lists(st.integers(1, 1000), min_size=1, max_size=20), st.booleans())


def test_owners_carry_equal_bytes_not_equal_numbers_of_fragments() -> None:
    view = first_view(members(2), [300, 100, 100, 100], sharded=True)
    assert load(view, [300, 100, 100, 100]) == {"w0": 300, "w1": 300}


def test_a_central_owner_is_the_first_member_and_its_standbys_are_spread() -> None:
    view = first_view(members(3), [10, 10, 10, 10], sharded=False)
    assert view.owners == ("w0",) * 4
    assert sorted(str(s) for s in view.standbys) == ["w1", "w1", "w2", "w2"]
    assert view.number == 1
    assert view.members == tuple(members(3))


def test_a_fleet_of_one_has_no_standby() -> None:
    view = first_view(members(1), [10, 20], sharded=True)
    assert view.owners == ("w0", "w0")
    assert view.standbys == (None, None)


@given(fleets)
def test_the_first_view_is_balanced(fleet: tuple[int, list[int], bool]) -> None:
    count, sizes, _ = fleet
    carried = load(first_view(members(count), sizes, sharded=True), sizes)
    assert max(carried.values()) - min(carried.values()) <= max(sizes)


@given(fleets)
def test_nobody_stands_by_for_itself(fleet: tuple[int, list[int], bool]) -> None:
    count, sizes, sharded = fleet
    view = first_view(members(count), sizes, sharded)
    for owner, standby in zip(view.owners, view.standbys, strict=True):
        assert owner in view.peers
        if count == 1:
            assert standby is None
        else:
            assert standby in view.peers
            assert standby != owner


def test_the_standby_takes_over() -> None:
    view = View(4, tuple(members(3)), ("w0", "w1", "w2"), ("w1", "w2", "w0"))
    after = without(view, {"w1"}, [10, 10, 10])
    assert after.number == 5
    assert after.peers == ("w0", "w2")
    assert after.owners == ("w0", "w2", "w2")
    assert after.standbys == ("w2", "w0", "w0"), "what stood stays; the lost standby's and the heir's are dealt anew"


@given(fleets, st.data())
def test_losses_one_by_one_never_lose_a_fragment(fleet: tuple[int, list[int], bool], data: st.DataObject) -> None:
    count, sizes, sharded = fleet
    view = first_view(members(count), sizes, sharded)
    while len(view.members) > 1:
        gone = data.draw(st.sampled_from(view.peers))
        after = without(view, {gone}, sizes)
        assert after.number == view.number + 1
        assert after.members == tuple(m for m in view.members if m.peer != gone)
        for f in range(len(sizes)):
            # The heir has the state already, and who has it and stays keeps its part.
            assert after.owners[f] == (view.standbys[f] if view.owners[f] == gone else view.owners[f])
            if gone not in (view.owners[f], view.standbys[f]):
                assert after.standbys[f] == view.standbys[f]
            assert after.standbys[f] != after.owners[f]
            assert (after.standbys[f] is None) == (len(after.members) == 1)
        view = after


@given(fleets, st.data())
def test_a_fragment_that_lost_both_holders_ends_the_run(
    fleet: tuple[int, list[int], bool], data: st.DataObject
) -> None:
    count, sizes, sharded = fleet
    view = first_view(members(count), sizes, sharded)
    gone = data.draw(st.sets(st.sampled_from(view.peers), min_size=1))
    pairs = zip(view.owners, view.standbys, strict=True)
    if any(owner in gone and (standby is None or standby in gone) for owner, standby in pairs):
        with pytest.raises(RunFailed, match="lost its owner and its standby") as caught:
            without(view, gone, sizes)
        assert "--resume" in caught.value.hint
    else:
        assert set(without(view, gone, sizes).peers) == set(view.peers) - gone
