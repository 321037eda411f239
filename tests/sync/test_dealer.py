"""Who is given what, and what counts, between peers around a table."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from table import Table, push, strategy, view

from roadtrain.lease import Assignment, WorkState, leases_of, slices_of
from roadtrain.message import Contribute, Envelope, Leave, Params, Replicate, Worked
from roadtrain.sync.dealer import ALONE, WorkTerms, first_assignment
from roadtrain.sync.effects import Committed, Counted, LeftOut
from roadtrain.sync.strategy import averaging
from roadtrain.view import PeerId

FIRST = view(1, "abc", ["a"], ["b"])
WITHOUT_A = view(2, "bc", ["b"], ["c"])
WITHOUT_C = view(2, "ab", ["a"], ["b"])


def table(name: str, total: int, names: str = "abc") -> Table:
    seated = Table(names, strategy(name), work=WorkTerms(WorkState(total), 3))
    seated.announce(view(1, names, ["a"], ["b"]))
    return seated


def give(seated: Table, name: PeerId, clock: int, slices: Iterable[int], base: int | None = None) -> None:
    """Contribute what was computed on these slices; on none: abstain."""
    named = leases_of(list(slices))
    made = push(clock, clock - 1 if base is None else base, 1, 1, 1)._replace(leases=named, steps=len(named) and 1)
    seated.give(name, Contribute(made if named else made._replace(weight=0.0, packet=None)))


def held(seated: Table, name: PeerId) -> list[int]:
    """What it was told last that it holds."""
    return slices_of(told(seated, name).leases)


def told(seated: Table, name: PeerId) -> Assignment:
    work = seated.installs[name][-1].work
    assert work is not None
    return work


def counted(seated: Table, *names: PeerId) -> dict[int, PeerId]:
    """Whose contribution each slice counts in."""
    found: dict[int, PeerId] = {}
    for name in names:
        for event in seated.seen(name, Counted):
            for worker, leases in event.contributions:
                for number in slices_of(leases):
                    assert found.setdefault(number, worker) == worker, "counted twice"
    return found


# ------------------------------------------------------------------------------------------------------------ dealing


@pytest.mark.parametrize(("name", "begins"), [("ssgd", [[0], [1], [2]]), ("asgd", [[0, 3], [1, 4], [2, 5]])])
def test_a_run_begins_with_what_all_can_work_out(name: str, begins: list[list[int]]) -> None:
    terms = WorkTerms(WorkState(30), 3)
    found = [first_assignment(terms, strategy(name), FIRST, worker) for worker in "abc"]
    assert [slices_of(each.leases) for each in found] == begins


def test_rounds_give_the_next_period_in_the_order_of_the_view() -> None:
    seated = table("localsgd:2", 30)
    for name, slices in {"a": [0, 3], "b": [1, 4], "c": [2, 5]}.items():
        give(seated, name, 1, slices)
    seated.settle()
    assert [held(seated, name) for name in "abc"] == [[6, 9], [7, 10], [8, 11]]
    assert counted(seated, "a") == {0: "a", 3: "a", 1: "b", 4: "b", 2: "c", 5: "c"}


@pytest.mark.parametrize("name", ["ssgd", "asgd", "localsgd:4", "streaming:4"])
def test_who_may_choose_holds_so_many_more(name: str) -> None:
    plain, wide = WorkTerms(WorkState(90), 3), WorkTerms(WorkState(90), 3, window=4)
    for worker in "abc":
        held = [slices_of(first_assignment(terms, strategy(name), FIRST, worker).leases) for terms in (plain, wide)]
        assert held[1][: len(held[0])] == held[0]
        assert len(held[1]) == len(held[0]) + 4


def test_what_was_chosen_is_replaced_and_the_rest_kept() -> None:
    seated = Table("abc", strategy("ssgd"), work=WorkTerms(WorkState(90), 3, window=2))
    seated.announce(FIRST)
    for name, chosen in zip("abc", (6, 1, 5), strict=True):
        give(seated, name, 1, [chosen])
    seated.settle()
    assert [held(seated, name) for name in "abc"] == [[0, 3, 9], [4, 7, 10], [2, 8, 11]]
    assert counted(seated, "a") == {6: "a", 1: "b", 5: "c"}


def test_what_a_lost_worker_held_is_given_to_the_others_first() -> None:
    seated = table("ssgd", 30)
    for name, slices in {"a": [0], "b": [1], "c": [2]}.items():
        give(seated, name, 1, slices)
    seated.settle()
    seated.announce(WITHOUT_C)  # it held 5
    for name, slices in {"a": [3], "b": [4]}.items():
        give(seated, name, 2, slices)
    seated.settle()
    assert [held(seated, name) for name in "ab"] == [[5], [6]]


def test_who_leaves_gives_back_what_it_holds() -> None:
    seated = table("asgd", 6)
    give(seated, "a", 1, [0])
    seated.settle()
    assert held(seated, "a") == [3]
    give(seated, "a", 2, [3])
    seated.settle()
    assert len(seated.installs["a"]) == 1, "others hold all that is left"
    seated.give("a", Envelope("c", "a", seated.peers["c"].incarnation, 1, Leave(0, 0, 0, 0)))
    seated.settle()
    assert held(seated, "a") == [2, 5]


def test_a_worker_that_is_alone_computes_by_itself_and_contributes_nothing() -> None:
    seated = Table("a", averaging(strategy("ssgd")), work=WorkTerms(WorkState(100), 1))
    seated.announce(view(1, "a", ["a"], [None]))
    effects = seated.give("a", Worked(leases_of([0]), 1))
    assert slices_of(effects.assigned[0].leases) == list(range(1, 1 + ALONE))
    effects = seated.give("a", Worked(leases_of(range(1, 1 + ALONE)), ALONE))
    assert effects.assigned[0].step == 1 + ALONE
    assert counted(seated, "a") == dict.fromkeys(range(1 + ALONE), "a")
    assert not seated.seen("a", Committed)


# ------------------------------------------------------------------------------------------------------- what counts


@pytest.mark.parametrize("name", ["ssgd", "asgd"])
def test_what_is_in_already_is_left_out_as_a_whole_and_the_rest_goes_back(name: str) -> None:
    """An owner that took over did not know of a promise, and has given the same slice to another."""
    seated = table(name, 30)
    give(seated, "a", 1, [0])
    give(seated, "b", 1, [1])
    give(seated, "c", 1, [2])
    seated.settle()
    before = seated.theta("a").clone()
    give(seated, "b", 2, [1, 9], base=seated.installs["b"][-1].version)
    for each, slices in {"a": [3], "c": [5]}.items():
        if name == "ssgd":
            give(seated, each, 2, slices)
    seated.settle()
    assert [(event.worker, event.clock) for event in seated.seen("a", LeftOut)] == [("b", 2)]
    assert 9 not in counted(seated, "a")
    assert counted(seated, "a")[1] == "b"
    if name == "asgd":
        assert torch.equal(seated.theta("a"), before), "none of it is in the model"
    owner = seated.peers["a"].owner(0)
    assert owner is not None
    assert owner.clocks["b"] == 2, "it is answered all the same, and goes on"


def test_a_contribution_that_names_nothing_does_not_count() -> None:
    seated = table("asgd", 30)
    seated.give("b", Contribute(push(1, 0, 1, 1, 1)))
    seated.settle()
    assert [event.worker for event in seated.seen("a", LeftOut)] == ["b"]
    assert seated.installs["b"][-1].clock == 1


def test_what_is_refused_is_not_given_again_and_does_not_count() -> None:
    seated = table("asgd", 30)
    bad = push(1, 0, float("nan"), 1, 1)._replace(leases=leases_of([1]))
    seated.give("b", Contribute(bad))
    seated.settle()
    assert counted(seated, "a") == {}
    owner = seated.peers["a"].owner(0)
    assert owner is not None
    work = owner.snapshot().work
    assert work is not None
    assert work.done == ((1, 2),), "it would only be refused again"


def test_a_round_that_closed_without_a_worker_leaves_its_samples_to_be_computed() -> None:
    seated = Table("abc", strategy("ssgd", backup=1), work=WorkTerms(WorkState(30), 3))
    seated.announce(FIRST)
    give(seated, "a", 1, [0])
    give(seated, "b", 1, [1])
    seated.settle()
    give(seated, "c", 1, [2])  # late
    seated.settle()
    assert 2 not in counted(seated, "a")
    assert held(seated, "c") == [2]
    assert told(seated, "c").step == 1


# ----------------------------------------------------------------------------------------------------- the standby


@pytest.mark.parametrize("name", ["ssgd", "asgd"])
def test_the_standby_accounts_for_what_was_given_and_counts_it_again(name: str) -> None:
    seated = table(name, 30)
    for each, slices in {"a": [0], "b": [1], "c": [2]}.items():
        give(seated, each, 1, slices)
    seated.settle()
    before = {each: held(seated, each) for each in "bc"}
    seated.announce(WITHOUT_A, "b", "c")
    seated.settle()
    assert counted(seated, "b") == counted(seated, "a") == {0: "a", 1: "b", 2: "c"}
    for each in "bc":
        give(seated, each, 2, before[each][:1], base=seated.installs[each][-1].version)
    seated.settle()
    assert not seated.seen("b", LeftOut)
    assert before["b"][0] in counted(seated, "b")
    lost = {3} if name == "ssgd" else {3, 6}
    assert lost & set(held(seated, "b") + held(seated, "c")), "what the lost one held is given first"


def test_who_is_promoted_without_knowing_a_promise_wastes_work_and_counts_nothing_twice() -> None:
    """The answer to a newcomer says what it holds, and the owner dies before its next commit tells its standby."""
    seated = table("asgd", 30, "abcd")
    for each, slices in {"a": [0], "b": [1], "c": [2], "d": [3]}.items():
        give(seated, each, 1, slices)
    seated.settle(Replicate)  # commits that nobody but the owner knows
    assert not seated.installs["c"], "so nobody is told"
    seated.announce(view(2, "bcd", ["b"], ["c"]), "b", "c", "d")
    seated.settle()
    assert counted(seated, "b") == {1: "b", 2: "c", 3: "d"}, (
        "they are pushed again, and slice 0 is to be computed again"
    )
    assert 0 in held(seated, "b") + held(seated, "c") + held(seated, "d")


# -------------------------------------------------------------------------------------------------- nothing to do


def test_a_round_of_nobody_stays_open_while_others_hold_all_that_is_left() -> None:
    seated = table("ssgd", 4)
    for each, slices in {"a": [0], "b": [1], "c": [2]}.items():
        give(seated, each, 1, slices)
    seated.settle()
    assert [held(seated, each) for each in "abc"] == [[3], [], []]
    for each in "bc":
        give(seated, each, 2, [])
    seated.settle()
    assert len(seated.seen("a", Committed)) == 1
    give(seated, "a", 2, [3])
    seated.settle()
    assert [told(seated, each).finished for each in "abc"] == [True, True, True]
    assert [told(seated, each).step for each in "abc"] == [2, 2, 2]


def test_it_closes_when_what_was_held_comes_back() -> None:
    seated = table("ssgd", 4)
    for each, slices in {"a": [0], "b": [1], "c": [2]}.items():
        give(seated, each, 1, slices)
    seated.settle()
    for each in "bc":
        give(seated, each, 2, [])
    seated.settle()
    seated.announce(WITHOUT_A, "b", "c")  # it held the last one
    seated.settle()
    assert sorted(held(seated, "b") + held(seated, "c")) == [3]


def test_by_demand_who_has_nothing_to_do_is_answered_when_all_is_in() -> None:
    seated = table("asgd", 6)
    give(seated, "b", 1, [1])
    seated.settle()
    assert held(seated, "b") == [4]
    give(seated, "b", 2, [4])
    seated.settle()
    assert len(seated.installs["b"]) == 1
    for each, first, second in (("a", 0, 3), ("c", 2, 5)):
        give(seated, each, 1, [first])
        seated.settle()
        give(seated, each, 2, [second])
        seated.settle()
    assert all(told(seated, each).finished for each in "abc")


def test_under_ssp_nobody_waits_for_work_as_clocks_must_go_on() -> None:
    seated = table("ssp:3", 3)
    give(seated, "b", 1, [1])
    seated.settle()
    assert held(seated, "b") == []
    give(seated, "b", 2, [])
    seated.settle()
    assert [install.clock for install in seated.installs["b"]] == [1, 2]


def test_an_answer_that_is_repeated_says_the_same() -> None:
    seated = table("ssgd", 30)
    for each, slices in {"a": [0], "b": [1], "c": [2]}.items():
        give(seated, each, 1, slices)
    seated.settle(Params)  # those to c are lost
    seated.remind()
    assert held(seated, "c") == [5]
    assert not seated.peers["c"].replica.pushes()
