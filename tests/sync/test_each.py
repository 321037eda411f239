"""Owner and standby in the asynchronous strategies: applied at once, answered when the gate and the standby allow."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from table import START, Table, strategy, view

from roadtrain.message import Params, Push, Replicate, Replicated, Tick
from roadtrain.sync.effects import Committed, Diverged, HandedOff, Refused


def table(name: str, names: str = "abc", *, adamw: bool = False, damping: bool = False, spec: str = "none") -> Table:
    """a owns the one fragment, b stands by."""
    seated = Table(names, strategy(name, adamw=adamw, damping=damping), spec=spec)
    seated.announce(view(1, names, ["a"], ["b"]))
    return seated


def answered(seated: Table, name: str) -> list[tuple[int, int, int, int]]:
    return [(i.clock, i.version, i.staleness, i.lead) for i in seated.installs[name]]


def test_a_contribution_is_applied_when_it_comes_and_answered_when_the_standby_has_it() -> None:
    seated = table("asgd")
    seated.contribute("c", 1, 0, 1, 1, 1)
    seated.give("a", seated.only(Push)[0])
    assert seated.seen("a", Committed) == [Committed(0, 1, ("c",))]
    assert seated.theta("a").tolist() == pytest.approx([0.9, 1.9, 2.9])
    assert seated.lift(Params) == []
    seated.give("b", seated.only(Replicate)[0])
    seated.give("a", seated.only(Replicated)[0])
    seated.give("c", seated.only(Params, to="c")[0])
    assert answered(seated, "c") == [(1, 1, 0, 1)]


def test_a_doubled_contribution_counts_once() -> None:
    seated = table("asgd")
    seated.contribute("c", 1, 0, 1, 1, 1)
    letter = seated.post[0]
    seated.settle()
    for _ in range(3):
        seated.give("a", letter)
    seated.settle()
    assert seated.theta("a").tolist() == pytest.approx([0.9, 1.9, 2.9])
    assert len(seated.seen("a", Committed)) == 1
    assert len(seated.installs["c"]) == 1


@pytest.mark.parametrize(("name", "held_back"), [("ssp:1", True), ("ssp:2", False), ("asgd", False)])
def test_the_gate_holds_the_answer_of_who_is_too_far_ahead(name: str, held_back: bool) -> None:
    seated = table(name)
    for clock in (1, 2):
        for fast in "bc":
            seated.contribute(fast, clock, 2 * clock - 2, 1, 1, 1)
            seated.settle()
    assert len(seated.installs["c"]) == (1 if held_back else 2)
    assert len(seated.seen("a", Committed)) == 4, "held back is the answer, not the contribution"
    seated.contribute("a", 1, 0, 1, 1, 1)
    seated.settle()
    assert [clock for clock, *_ in answered(seated, "c")] == [1, 2]
    assert answered(seated, "a") == [(1, 5, 4, 0)]


def test_a_lost_straggler_holds_nobody_back() -> None:
    seated = table("ssp:1", "abcd")
    for clock in (1, 2):
        for name in "abc":
            seated.contribute(name, clock, 0, 1, 1, 1)
            seated.settle()
    assert [len(seated.installs[name]) for name in "abc"] == [1, 1, 1]
    del seated.peers["d"]
    seated.announce(view(2, "abc", ["a"], ["b"]))
    seated.settle()
    assert [len(seated.installs[name]) for name in "abc"] == [2, 2, 2]


@pytest.mark.parametrize("adamw", [False, True])
@pytest.mark.parametrize("damping", [False, True])
def test_the_standby_repeats_commits_to_the_bit_and_takes_over(adamw: bool, damping: bool) -> None:
    seated = table("asgd", adamw=adamw, damping=damping)
    for clock in range(1, 6):
        for i, name in enumerate("abc"):
            seated.contribute(name, clock, max(0, 3 * clock - 5), 0.1 * i, 0.7 / clock, clock)
            seated.settle()
    want = seated.theta("a").clone()
    del seated.peers["a"]
    seated.announce(view(2, "bc", ["b"], ["c"]))
    assert seated.seen("b", HandedOff) == [HandedOff(0, 15)]
    assert torch.equal(seated.theta("b"), want)


def test_the_standby_repeats_a_commit_of_an_earlier_view_with_as_many_members_as_that_had() -> None:
    seated = table("async-diloco:1")
    seated.contribute("c", 1, 0, 1, 1, 1)
    seated.give("a", seated.only(Push)[0])
    seated.lift(Replicate)
    seated.announce(view(2, "ab", ["a"], ["b"]))
    seated.settle()
    assert seated.seen("b", Diverged) == []
    assert torch.equal(seated.peers["b"]._standbys[0].ledger.theta, seated.theta("a"))


def test_a_commit_in_a_view_without_members_is_none() -> None:
    seated = table("asgd")
    seated.contribute("c", 1, 0, 1, 1, 1)
    seated.give("a", seated.only(Push)[0])
    letter, record = seated.only(Replicate)
    seated.give("b", letter._replace(message=replace(record, members=0)))
    assert seated.lift(Replicated) == []
    seated.settle()
    assert torch.equal(seated.peers["b"]._standbys[0].ledger.theta, seated.theta("a"))


def test_what_was_not_acknowledged_is_pushed_again_to_the_heir() -> None:
    seated = table("asgd")
    seated.contribute("c", 1, 0, 1, 1, 1)
    seated.give("a", seated.only(Push)[0])
    seated.lift(Replicate)
    del seated.peers["a"]
    seated.announce(view(2, "bc", ["b"], ["c"]))
    seated.settle()
    assert seated.theta("b").tolist() == pytest.approx([0.9, 1.9, 2.9])
    assert answered(seated, "c") == [(1, 1, 0, 1)]


def test_what_was_acknowledged_is_not_applied_again_by_the_heir() -> None:
    seated = table("asgd")
    seated.contribute("c", 1, 0, 1, 1, 1)
    seated.give("a", seated.only(Push)[0])
    seated.give("b", seated.only(Replicate)[0])
    seated.give("a", seated.only(Replicated)[0])
    seated.lift(Params)
    del seated.peers["a"]
    seated.announce(view(2, "bc", ["b"], ["c"]))
    seated.settle()
    assert seated.theta("b").tolist() == pytest.approx([0.9, 1.9, 2.9])
    assert [clock for clock, *_ in answered(seated, "c")] == [1]
    assert seated.seen("b", Committed) == []


def test_versions_never_go_back_when_an_owner_is_lost() -> None:
    # c was read at a version that the heir never heard of: the count goes on from there.
    seated = table("asgd", "ab")
    seated.contribute("b", 1, 7, 1, 1, 1)
    seated.settle()
    assert answered(seated, "b") == [(1, 8, 0, 1)]
    seated.announce(view(2, "b", ["b"], [None]), "b")
    assert seated.seen("b", HandedOff) == [HandedOff(0, 8)]


def test_a_bad_contribution_is_refused_and_its_worker_goes_on() -> None:
    seated = table("asgd")
    seated.contribute("c", 1, 0, 1, float("nan"), 1)
    seated.settle()
    assert [(r.worker, r.clock) for r in seated.seen("a", Refused)] == [("c", 1)]
    assert seated.theta("a").tolist() == list(START)
    assert [clock for clock, *_ in answered(seated, "c")] == [1]
    seated.contribute("c", 2, 1, 1, 1, 1)
    seated.settle()
    assert seated.theta("a").tolist() == pytest.approx([0.9, 1.9, 2.9])


def test_records_that_were_lost_are_repeated_in_order() -> None:
    seated = table("asgd")
    for name in "ac":
        seated.contribute(name, 1, 0, 1, 1, 1)
        for letter, _ in seated.lift(Push):
            seated.give("a", letter)
    seated.lift(Replicate)
    effects = seated.give("a", Tick(), now=1.0)
    assert [e.message.version for e in effects.sends if isinstance(e.message, Replicate)] == [1, 2]
    seated.settle()
    assert [len(seated.installs[name]) for name in "ac"] == [1, 1]


def test_a_lost_compressed_answer_is_repeated_and_not_taken_for_the_next() -> None:
    seated = table("asgd", spec="int8")
    packets: list[bytes] = []
    seated.contribute("c", 1, 0)  # an empty contribution is foreign: refused, and answered all the same
    for _ in range(2):
        while seated.post and not any(isinstance(letter.message, Params) for letter in seated.post):
            letter = seated.post.pop(0)
            seated.give(letter.destination, letter)
        packets += [bytes(part.numpy()) for _, m in seated.lift(Params) for part in m.packet.parts]
        seated.give("c", Tick(), now=1.0)
    assert len(packets) == 2
    assert packets[0] == packets[1]
