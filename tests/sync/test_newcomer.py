"""Who comes when the run goes on already: asks for the state, and is waited for from its first contribution on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from table import START, Table, ledger, strategy, vector, view

from roadtrain.codec import parse as codec
from roadtrain.membership.view import swapped, with_newcomer, with_standbys
from roadtrain.message import Enter, Params, Pull, Push, Replicate
from roadtrain.sync.effects import Committed, HandedOff, Orphaned
from roadtrain.sync.peer import Peer
from roadtrain.sync.strategy import averaging
from roadtrain.view import Member, View

MEANS = "ssgd, every worker steps"


def running(name: str, spec: str = "none", clocks: int = 3) -> Table:
    """Peers a and b after some clocks; c is there and has not been let in."""
    chosen = averaging(strategy("ssgd")) if name == MEANS else strategy(name)
    seated = Table("abc", chosen, lambda _: ledger(chosen, spec, up="none"))
    seated.announce(view(1, "ab", ["a"], ["b"]))
    for clock in range(1, clocks + 1):
        for peer in "ab":
            base = seated.installs[peer][-1].version if seated.installs[peer] else 0
            seated.contribute(peer, clock, base, 1, 2, 3)
            seated.settle()
    return seated


def let_in(seated: Table) -> None:
    seated.announce(view(2, "abc", ["a"], ["b"]))


@pytest.mark.parametrize("name", ["ssgd", "asgd", "ssp:2"])
@pytest.mark.parametrize("spec", ["none", "int8"])
def test_a_newcomer_is_given_the_state(name: str, spec: str) -> None:
    seated = running(name, spec)
    let_in(seated)
    seated.settle()
    (install,) = seated.installs["c"]
    role = seated.peers["a"].owner(0)
    assert role is not None
    assert (install.clock, install.version, install.full) == (3, role.ledger.version, True)
    assert torch.equal(codec("none").decode(install.packet), role.ledger.final())
    assert seated.peers["c"].wake_at is None


def test_rounds_do_not_wait_for_a_newcomer_before_it_has_contributed() -> None:
    seated = running("ssgd")
    let_in(seated)
    seated.settle()
    for name in "ab":
        seated.contribute(name, 4, 3, 1, 1, 1)
    seated.settle()
    assert seated.seen("a", Committed)[-1] == Committed(0, 4, ("a", "b"))
    seated.contribute("c", 4, 3, 9, 9, 9)  # late: round 4 is closed
    seated.settle()
    assert [(i.clock, i.version) for i in seated.installs["c"]] == [(3, 3), (4, 4)]
    for name in "ab":
        seated.contribute(name, 5, 4, 1, 1, 1)
    seated.settle()
    assert len(seated.seen("a", Committed)) == 4, "now it is waited for"
    seated.contribute("c", 5, 4, 1, 1, 1)
    seated.settle()
    assert seated.seen("a", Committed)[-1] == Committed(0, 5, ("a", "b", "c"))


def test_who_steps_by_itself_is_waited_for_from_the_round_that_it_was_told_of() -> None:
    """It has the model of round 3 from another worker, and would miss the mean of round 4."""
    seated = running(MEANS)
    let_in(seated)
    seated.settle()
    assert seated.installs["c"] == [], "it has no model yet"
    seated.give("c", Enter())
    seated.settle(Params)
    seated.remind()  # the answer was lost
    seated.settle()
    assert [(i.clock, i.version) for i in seated.installs["c"]] == [(3, 3)]
    for name in "ab":
        seated.contribute(name, 4, 3, 1, 1, 1)
    seated.settle()
    assert len(seated.seen("a", Committed)) == 3
    seated.contribute("c", 4, 3, 4, 4, 4)
    seated.settle()
    assert seated.seen("a", Committed)[-1] == Committed(0, 4, ("a", "b", "c"))
    assert {seated.installs[name][-1].version for name in "abc"} == {4}


def test_who_steps_by_itself_holds_nobody_up_before_it_has_the_model() -> None:
    seated = running(MEANS)
    let_in(seated)
    for name in "ab":
        seated.contribute(name, 4, 3, 1, 1, 1)
    seated.settle()
    assert seated.seen("a", Committed)[-1] == Committed(0, 4, ("a", "b"))


def test_ssp_does_not_count_a_newcomer_that_still_loads() -> None:
    seated = running("ssp:1", clocks=5)
    let_in(seated)
    seated.settle(Params)  # c's answer is lost: it has not begun
    for clock in (6, 7):
        for name in "ab":
            seated.contribute(name, clock, 10, 1, 1, 1)
            seated.settle(Pull)
    assert [i.clock for i in seated.installs["b"]][-2:] == [6, 7]


def test_what_the_standby_hears_late_of_a_lost_worker_is_not_taken_for_the_newcomers() -> None:
    chosen = strategy("asgd")
    seated = Table("abc", chosen, lambda _: ledger(chosen))
    seated.announce(view(1, "abc", ["a"], ["b"]))
    for peer in "abc":
        seated.contribute(peer, 1, 0, 1, 2, 3)
        seated.hand(Push)
        seated.lift(Replicate)
    seated.announce(view(2, "ab", ["a"], ["b"]))
    seated.lift(Replicate)
    after = View(3, (*view(2, "ab", [], []).members, Member("c", 9)), ("a",), ("b",))
    seated.peers["c"] = Peer("c", 9, chosen, lambda _: ledger(chosen), 1.0)
    seated.announce(after)
    seated.settle(Params)  # the answer to c is lost with its owner
    del seated.peers["a"]
    seated.announce(replace(after, number=4, members=after.members[1:], owners=("b",), standbys=("c",)))
    seated.settle()
    assert seated.installs["c"], "it is not told the state"


def test_a_lost_answer_is_asked_for_again_and_is_the_same() -> None:
    seated = running("asgd", "int8")
    let_in(seated)
    seated.hand(Pull, to="a")
    _, first = seated.only(Params, to="c")
    seated.remind()
    (install,) = seated.installs["c"]
    assert install.version == first.version
    assert torch.equal(codec("none").decode(install.packet), codec("none").decode(first.packet))


def test_a_late_copy_of_its_question_does_not_start_a_newcomer_again() -> None:
    seated = running("asgd", "int8")
    let_in(seated)
    letter, _ = seated.only(Pull, to="a")
    seated.give("a", letter)
    seated.settle()
    seated.contribute("c", 4, seated.installs["c"][0].version, 1, 1, 1)
    seated.settle()
    answered = len(seated.installs["c"])
    seated.give("a", letter)
    assert seated.lift(Params, to="c") == []
    assert answered == 2


def test_a_newcomer_stands_by_where_nobody_does_and_can_take_over() -> None:
    chosen = strategy()
    seated = Table("ab", chosen)
    alone = view(1, "a", ["a"], [None])
    seated.announce(alone)
    seated.contribute("a", 1, 0, 1, 1, 1)
    joined = with_newcomer(alone, Member("b", 2), [24])
    assert (joined.number, joined.peers, joined.owners, joined.standbys) == (2, ("a", "b"), ("a",), ("b",))
    seated.announce(joined)
    seated.settle()
    assert [i.version for i in seated.installs["b"]] == [1]
    before = seated.theta("a").clone()
    del seated.peers["a"]
    seated.announce(view(3, "b", ["b"], [None]))
    assert seated.seen("b", HandedOff) == [HandedOff(0, 1)]
    assert torch.equal(seated.theta("b"), before)
    seated.contribute("b", 2, 1, 1, 1, 1)
    assert seated.seen("b", Committed)[-1] == Committed(0, 2, ("b",))


def test_a_newcomer_without_the_state_cannot_take_over() -> None:
    chosen = strategy()
    seated = Table("ab", chosen)
    alone = view(1, "a", ["a"], [None])
    seated.announce(alone)
    seated.announce(with_newcomer(alone, Member("b", 2), [24]))
    seated.post.clear()
    seated.announce(view(3, "b", ["b"], [None]), "b")
    assert seated.seen("b", Orphaned) == [Orphaned(0)]


def test_the_state_of_an_unconfirmed_version_waits() -> None:
    seated = running("ssgd")
    for name in "ab":
        seated.contribute(name, 4, 3, 1, 1, 1)
    seated.hand(Push)  # committed; the Replicate is under way
    seated.post.clear()
    let_in(seated)
    letters = seated.lift(Pull, to="a")
    for letter, _ in letters:
        seated.give("a", letter)
    assert [p for _, p in seated.lift(Params, to="c")] == []
    seated.remind()
    assert [i.version for i in seated.installs["c"]] == [4]


def test_a_newcomer_asks_whoever_takes_over() -> None:
    seated = running("ssgd")
    let_in(seated)
    del seated.peers["a"]
    seated.announce(view(3, "bc", ["b"], ["c"]))
    seated.settle()
    assert [i.version for i in seated.installs["c"]] == [3]


def test_a_first_peer_asks_nobody() -> None:
    chosen = strategy()
    peer = Peer("a", 1, chosen, lambda _: ledger(chosen), 1.0)
    assert vector(*START).tolist() == list(START)
    seated = Table("a", chosen)
    seated.peers["a"] = peer
    seated.announce(view(1, "a", ["a"], [None]))
    assert peer.replica.outstanding == 0


def test_who_comes_back_under_its_name_is_a_newcomer() -> None:
    """c took part, was lost, and was started again: it is given the state, and not waited for before it contributes."""
    chosen = strategy("ssgd")
    seated = Table("abc", chosen, lambda _: ledger(chosen, up="none"))
    seated.announce(view(1, "abc", ["a"], ["b"]))
    for name in "abc":
        seated.contribute(name, 1, 0, 1, 1, 1)
    seated.settle()
    seated.contribute("c", 2, 1, 9, 9, 9)  # and is gone before the round closes
    seated.settle()
    without_c = view(2, "ab", ["a"], ["b"])
    seated.announce(without_c, "a", "b")
    back = with_newcomer(without_c, Member("c", 7), [24])
    seated.peers["c"] = Peer("c", 7, chosen, lambda _: ledger(chosen, up="none"), 1.0)
    seated.installs["c"].clear()
    seated.announce(back)
    seated.settle()
    assert [(i.clock, i.version, i.full) for i in seated.installs["c"]] == [(1, 1, True)]
    for name in "ab":
        seated.contribute(name, 2, 1, 1, 1, 1)
    seated.settle()
    assert seated.seen("a", Committed)[-1] == Committed(0, 2, ("a", "b")), "without what it said before"
    seated.contribute("c", 2, 1, 1, 1, 1)
    seated.settle()
    assert seated.installs["c"][-1].version == 2


def test_nor_for_an_owner_that_came_itself_and_was_given_what_the_lost_one_did() -> None:
    """d comes after c was lost, stands by, and owns the fragment when c comes back: what a gave it says that c was at clock 1."""
    chosen = strategy("ssgd")
    seated = Table("abc", chosen, lambda _: ledger(chosen, up="none"))
    seated.announce(view(1, "abc", ["a"], ["b"]))
    for name in "abc":
        seated.contribute(name, 1, 0, 1, 1, 1)
    seated.settle()
    with_d = with_newcomer(view(2, "ab", ["a"], ["b"]), Member("d", 8), [24])
    seated.peers["d"] = Peer("d", 8, chosen, lambda _: ledger(chosen, up="none"), 1.0)
    seated.announce(with_d, "a", "b", "d")
    seated.settle()
    stands_by = with_standbys(with_d, {0: "d"})
    seated.announce(stands_by, "a", "b", "d")
    seated.settle()
    owns = swapped(stands_by, [0])
    seated.announce(owns, "a", "b", "d")
    seated.settle()
    seated.peers["c"] = Peer("c", 9, chosen, lambda _: ledger(chosen, up="none"), 1.0)
    seated.announce(with_newcomer(owns, Member("c", 9), [24]))
    seated.settle()
    for name in "abd":
        seated.contribute(name, 2, 1, 1, 1, 1)
    seated.settle()
    assert seated.seen("d", Committed)[-1] == Committed(0, 2, ("a", "b", "d"))
