"""A worker that is lost in the middle of contributing: to fragment 0, and not to fragment 1."""

from __future__ import annotations

import pytest
from table import Table, push, strategy, view

from roadtrain.lease import WorkState, leases_of, slices_of
from roadtrain.message import Contribute, Push, Replicate, Trace, Traced
from roadtrain.sync.dealer import WorkTerms
from roadtrain.sync.effects import Committed, TakenBack
from roadtrain.view import PeerId, View


def seated(name: str, second: PeerId = "b") -> Table:
    """Three workers and two fragments, the second of owner `second`."""
    table = Table("abc", strategy(name), work=WorkTerms(WorkState(30), 3))
    table.announce(view(1, "abc", ["a", second], ["b", "a"]))
    return table


def give(table: Table, name: PeerId, clock: int, number: int, *fragments: int) -> None:
    for fragment in fragments:
        named = leases_of([number]) if fragment == 0 else ()
        table.give(name, Contribute(push(clock, clock - 1, 1, 1, 1, fragment=fragment)._replace(leases=named, steps=1)))


def without_c(owners: tuple[PeerId, PeerId]) -> View:
    return view(2, "ab", owners, ["b", "a" if owners[1] == "b" else "b"])


def held(table: Table, name: PeerId) -> list[int]:
    found = [install.work for install in table.installs[name] if install.fragment == 0]
    assert found[-1] is not None
    return slices_of(found[-1].leases)


def test_what_one_fragment_lacks_is_computed_again_by_demand() -> None:
    table = seated("asgd")
    give(table, "c", 1, 2, 0)
    table.settle()
    give(table, "c", 1, 2, 1)
    table.lift(Push)  # it never comes
    table.announce(without_c(("a", "b")), "a", "b")
    table.settle()
    assert [(event.worker, slices_of(event.leases)) for event in table.seen("a", TakenBack)] == [("c", [2])]
    give(table, "b", 1, 1, 0)
    table.settle()
    assert 2 in held(table, "b")


@pytest.mark.parametrize("name", ["asgd", "ssgd"])
def test_what_is_in_everywhere_is_not(name: str) -> None:
    table = seated(name)
    for worker, number in {"a": 0, "b": 1, "c": 2}.items():
        give(table, worker, 1, number, 0, 1)
    table.settle()
    table.announce(without_c(("a", "b")), "a", "b")
    assert len(table.lift(Trace)) == 1
    table.remind()  # the question was lost
    assert not table.seen("a", TakenBack)
    owner = table.peers["a"].owner(0)
    assert owner is not None
    assert not owner.unconfirmed


def test_what_its_worker_was_the_only_one_to_have_is_computed_again() -> None:
    """c owned fragment 1: its own contribution there died with it, while that to fragment 0 had been committed."""
    table = seated("ssgd", "c")
    for worker, number in {"a": 0, "b": 1}.items():
        give(table, worker, 1, number, 0, 1)
    give(table, "c", 1, 2, 0, 1)
    for letter, message in table.lift(Replicate):
        if message.fragment == 0:  # that of fragment 1 is lost with its owner
            table.give(letter.destination, letter)
    table.hand(Push)
    for letter, message in table.lift(Replicate):
        if message.fragment == 0:
            table.give(letter.destination, letter)
    assert table.seen("a", Committed)[-1].workers == ("a", "b", "c")
    table.announce(view(2, "ab", ["a", "a"], ["b", "b"]), "a", "b")
    table.settle()
    assert [(event.worker, slices_of(event.leases)) for event in table.seen("a", TakenBack)] == [("c", [2])]


def test_a_round_that_is_open_is_made_without_it_everywhere() -> None:
    table = seated("ssgd")
    give(table, "c", 1, 2, 0, 1)
    give(table, "a", 1, 0, 0, 1)
    table.settle()
    table.announce(without_c(("a", "b")), "a", "b")
    give(table, "b", 1, 1, 0, 1)
    table.settle()
    assert {(event.fragment, event.workers) for name in "ab" for event in table.seen(name, Committed)} == {
        (0, ("a", "b")),
        (1, ("a", "b")),
    }
    assert 2 in held(table, "a") + held(table, "b")


def test_the_run_is_not_over_before_it_is_known() -> None:
    table = Table("abc", strategy("asgd"), work=WorkTerms(WorkState(3), 3))
    table.announce(view(1, "abc", ["a", "b"], ["b", "a"]))
    give(table, "c", 1, 2, 0)
    give(table, "a", 1, 0, 0, 1)
    table.settle()
    table.announce(without_c(("a", "b")), "a", "b")
    table.settle(Trace)
    give(table, "b", 1, 1, 0, 1)
    table.settle()
    finished = [install.work.finished for install in table.installs["b"] if install.work is not None]
    assert finished == []
    table.remind()
    table.settle()
    given = [install.work for name in "ab" for install in table.installs[name] if install.work is not None]
    assert [slices_of(work.leases) for work in given] == [[2]], "one of the two is answered"


def test_whoever_takes_fragment_0_over_asks_again() -> None:
    table = seated("asgd")
    give(table, "c", 1, 2, 0)
    table.settle()
    table.announce(without_c(("a", "b")), "a", "b")
    table.lift(Trace)
    table.announce(view(3, "b", ["b", "b"], [None, None]), "b")
    table.settle(Traced)
    assert [event.worker for event in table.seen("b", TakenBack)] == ["c"]
