"""Backup workers: rounds close without the slowest, which goes on with the round that is open."""

from __future__ import annotations

import pytest
import torch
from table import Table, ledger, strategy, view

from roadtrain.codec import parse as codec
from roadtrain.message import Params, Pull, Push, Replicated
from roadtrain.sync.effects import Committed


def table(spec: str = "none") -> Table:
    """Three peers, of which a round needs two: a owns the fragment, b stands by, c is slow."""
    chosen = strategy(backup=1)
    seated = Table("abc", chosen, lambda _: ledger(chosen, spec, up="none"))
    seated.announce(view(1, "abc", ["a"], ["b"]))
    return seated


def round_without_c(seated: Table, clock: int) -> None:
    for name in "ab":
        seated.contribute(name, clock, clock - 1, 1, 1, 1)
    seated.settle()


def test_a_round_closes_without_the_slowest() -> None:
    seated = table()
    round_without_c(seated, 1)
    assert seated.seen("a", Committed) == [Committed(0, 1, ("a", "b"))]
    assert [len(seated.installs[name]) for name in "abc"] == [1, 1, 0]


@pytest.mark.parametrize("spec", ["none", "int8"])
def test_who_is_late_is_left_out_and_goes_on_with_the_open_round(spec: str) -> None:
    seated = table(spec)
    for clock in (1, 2, 3):
        round_without_c(seated, clock)
    before = seated.theta("a").clone()
    seated.contribute("c", 1, 0, 50, 50, 50)
    seated.settle()
    assert torch.equal(seated.theta("a"), before), "a late contribution is left out"
    (install,) = seated.installs["c"]
    assert (install.clock, install.version, install.full) == (1, 3, True)
    role = seated.peers["a"].owner(0)
    assert role is not None
    assert torch.equal(codec("none").decode(install.packet), role.ledger.final())
    seated.contribute("c", 4, 3, 2, 2, 2)
    seated.contribute("a", 4, 3, 2, 2, 2)
    seated.settle()
    assert seated.seen("a", Committed)[-1] == Committed(0, 4, ("a", "c"))


def test_a_late_answer_that_is_lost_is_given_again() -> None:
    seated = table()
    round_without_c(seated, 1)
    seated.contribute("c", 1, 0, 9, 9, 9)
    seated.settle(Params)
    assert seated.installs["c"] == []
    seated.remind()
    assert [(i.clock, i.version) for i in seated.installs["c"]] == [(1, 1)]


def test_nobody_is_told_of_a_version_that_the_standby_cannot_account_for() -> None:
    """c is late for version 1 and asks when version 2 is committed and not yet confirmed."""
    seated = table()
    round_without_c(seated, 1)
    for name in "ab":
        seated.contribute(name, 2, 1, 1, 1, 1)
    seated.hand(Push)
    seated.contribute("c", 1, 0, 9, 9, 9)
    seated.hand(Push)
    for letter, answer in seated.lift(Params, to="c"):
        assert (answer.version, answer.stable) == (2, False)
        seated.give("c", letter)
    assert seated.installs["c"] == []
    seated.settle()
    assert [i.version for i in seated.installs["c"]] == [2]


def test_the_heir_answers_who_was_late_for_its_predecessor() -> None:
    seated = table()
    for clock in (1, 2):
        round_without_c(seated, clock)
    del seated.peers["a"]
    seated.announce(view(2, "bc", ["b"], ["c"]))
    seated.contribute("c", 1, 0, 9, 9, 9)
    seated.settle()
    seated.remind()
    assert [i.version for i in seated.installs["c"]] == [2]


def test_a_repeated_late_contribution_is_not_taken_for_one_of_the_open_round() -> None:
    seated = table()
    round_without_c(seated, 1)
    seated.contribute("c", 1, 0, 9, 9, 9)
    letter, _ = seated.only(Push, to="a")
    for _ in range(3):
        seated.give("a", letter)
    seated.settle(Pull, Replicated)
    assert len(seated.seen("a", Committed)) == 1
