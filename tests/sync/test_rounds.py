"""Owner, standby and replicas of one fragment in the synchronous strategies, letter by letter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from table import START, Table, ledger, push, strategy, vector, view

from roadtrain.codec import parse as codec
from roadtrain.message import (
    Contribute,
    Fetch,
    Nack,
    Params,
    Pull,
    Push,
    Remote,
    Replicate,
    Replicated,
    Snapshot,
    Stable,
    Tick,
    ViewChanged,
)
from roadtrain.sync import standby
from roadtrain.sync.effects import Apart, Committed, Diverged, HandedOff, Orphaned, Refused, Resent
from roadtrain.sync.strategy import averaging


def table(names: str = "abc") -> Table:
    """Peers in their first view: a owns the one fragment, b stands by."""
    seated = Table(names, strategy())
    seated.announce(view(1, names, ["a"], ["b"]))
    return seated


def contribute_all(seated: Table, clock: int, *values: float) -> None:
    for name in seated.peers:
        seated.contribute(name, clock, clock - 1, *values)


# -------------------------------------------------------------------------------------------------- one round


def test_a_round_from_contributions_to_answers() -> None:
    seated = table("ab")
    seated.contribute("a", 1, 0, 1, 2, 3)
    assert seated.post == []
    seated.contribute("b", 1, 0, 3, 2, 1)
    seated.give("a", seated.only(Push, to="a")[0])
    assert seated.seen("a", Committed) == [Committed(0, 1, ("a", "b"))]
    assert seated.installs["a"] == [], "nobody is answered before the standby can account for it"
    letter, record = seated.only(Replicate, to="b")
    assert (record.version, record.after) == (1, 0)
    assert record.mean is not None
    assert torch.equal(codec("none").decode(record.mean), vector(2, 2, 2))
    assert [(p.worker, p.packet) for p in record.parts] == [("a", None), ("b", None)]
    seated.give("b", letter)
    (own,) = seated.installs["b"]  # the standby answers its own worker: the record came in place of an answer
    assert (own.clock, own.version, own.full) == (1, 1, True)
    assert seated.installs["a"] == []
    seated.give("a", seated.only(Replicated, to="a")[0])
    (install,) = seated.installs["a"]
    assert (install.clock, install.version, install.staleness, install.lead) == (1, 1, 0, 0)
    assert seated.post == []
    assert torch.equal(codec("none").decode(install.packet), vector(0.8, 1.8, 2.8))
    assert torch.equal(codec("none").decode(own.packet), vector(0.8, 1.8, 2.8))


def test_a_fleet_of_one_needs_no_letters() -> None:
    seated = Table("a", strategy())
    seated.announce(view(1, "a", ["a"], [None]))
    effects = seated.contribute("a", 1, 0, 1, 1, 1)
    assert effects.sends == []
    assert [i.version for i in effects.installs] == [1]
    assert seated.peers["a"].wake_at is None


@pytest.mark.parametrize(("rates", "apart"), [((0.1, 0.1, 0.1), False), ((0.1, 0.2, 0.1), True)])
def test_workers_that_step_by_themselves_at_other_rates_are_told_of(rates: tuple[float, ...], apart: bool) -> None:
    chosen = averaging(strategy())
    seated = Table("abc", chosen, lambda _: ledger(chosen, "none", up="none"))
    seated.announce(view(1, "abc", ["a"], ["b"]))
    for name, rate in zip("abc", rates, strict=True):
        seated.give(name, Contribute(push(1, 0, 1, 2, 3)._replace(lr=rate)))
    seated.settle()
    assert seated.seen("a", Apart) == ([Apart("learning rate", ("a", "b", "c"))] if apart else [])


def test_bits_do_not_depend_on_who_came_first() -> None:
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randn(200, generator=generator, dtype=torch.float64).tolist() for name in "abc"}
    chosen = strategy()
    ends: list[torch.Tensor] = []
    for order in ("abc", "cba", "bca"):
        seated = Table("abc", chosen, lambda _: ledger(chosen, start=[0.0] * 200))
        seated.announce(view(1, "abc", ["a"], ["b"]))
        for name in order:
            seated.contribute(name, 1, 0, *values[name])
            seated.settle()
        ends.append(seated.theta("a"))
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


def test_a_contribution_without_weight_takes_part_and_adds_nothing() -> None:
    seated = table("ab")
    seated.contribute("a", 1, 0, 1, 1, 1)
    seated.give("b", Contribute(Push(0, 1, 0, 0.0, None)))
    seated.settle()
    assert seated.theta("a").tolist() == pytest.approx([0.9, 1.9, 2.9])
    assert seated.seen("a", Committed) == [Committed(0, 1, ("a",))]
    assert len(seated.installs["b"]) == 1


# ------------------------------------------------------------------------------------------------- duplicates


def test_a_doubled_contribution_counts_once_before_and_after_its_round() -> None:
    seated = table()
    seated.contribute("c", 1, 0, 9, 9, 9)
    letter, _ = seated.only(Push, to="a")
    seated.give("a", letter)
    seated.give("a", letter)
    seated.contribute("a", 1, 0, 0, 0, 0)
    seated.contribute("b", 1, 0, 0, 0, 0)
    seated.settle()
    once = seated.theta("a").clone()
    assert once.tolist() == pytest.approx([0.7, 1.7, 2.7])
    seated.give("a", letter)
    (_, again) = seated.lift(Params, to="c")[-1]
    assert (again.clock, again.version) == (1, 1)
    assert torch.equal(codec("none").decode(again.packet), once)
    assert torch.equal(seated.theta("a"), once)
    assert len(seated.seen("a", Committed)) == 1


def test_an_answer_is_installed_once_however_often_it_comes() -> None:
    seated = table()
    contribute_all(seated, 1, 1, 1, 1)
    for kind in (Push, Replicate, Replicated):
        seated.hand(kind)
    letters = seated.lift(Params, to="c") + seated.lift(Stable, to="c")
    for letter, _ in letters * 3:
        seated.give("c", letter)
    assert len(seated.installs["c"]) == 1


def test_a_doubled_record_is_confirmed_again_and_not_committed_again() -> None:
    seated = table("ab")
    contribute_all(seated, 1, 1, 1, 1)
    seated.give("a", seated.only(Push)[0])
    letter, _ = seated.only(Replicate)
    seated.give("b", letter)
    seated.give("b", letter)
    assert [m.version for _, m in seated.lift(Replicated)] == [1, 1]
    seated.announce(view(2, "b", ["b"], [None]))
    assert seated.theta("b").tolist() == pytest.approx([0.9, 1.9, 2.9])
    assert seated.seen("b", HandedOff) == [HandedOff(0, 1)]


def test_a_contribution_that_skips_a_clock_is_refused() -> None:
    seated = table()
    seated.contribute("c", 3, 2, 1, 1, 1)
    seated.settle()
    (refused,) = seated.seen("a", Refused)
    assert (refused.worker, refused.clock) == ("c", 3)


# ------------------------------------------------------------------------------------------------ loss, repeats


def test_a_lost_contribution_is_asked_for_and_pushed_again() -> None:
    seated = table()
    seated.contribute("c", 1, 0, 1, 1, 1)
    seated.lift(Push)
    seated.give("c", Tick(), now=1.0)
    seated.give("a", seated.only(Pull, to="a")[0])
    seated.give("c", seated.only(Nack, to="c")[0])
    assert seated.seen("c", Resent) == [Resent(0)]
    assert seated.only(Push, to="a")[1].clock == 1


def test_a_question_that_is_early_waits_for_the_round() -> None:
    seated = table()
    seated.contribute("c", 1, 0, 1, 1, 1)
    seated.settle()
    seated.give("c", Tick(), now=1.0)
    seated.settle()
    assert seated.installs["c"] == []
    assert seated.seen("c", Resent) == []
    seated.contribute("a", 1, 0, 1, 1, 1)
    seated.contribute("b", 1, 0, 1, 1, 1)
    seated.settle()
    assert [i.clock for i in seated.installs["c"]] == [1]


@pytest.mark.parametrize("lost", [(Params,), (Params, Stable)])
def test_a_lost_answer_is_given_again(lost: tuple[type[Remote], ...]) -> None:
    seated = table()
    contribute_all(seated, 1, 1, 1, 1)
    seated.settle(*lost)
    assert seated.installs["c"] == []
    seated.give("c", Tick(), now=1.0)
    seated.settle()
    assert [(i.clock, i.version) for i in seated.installs["c"]] == [(1, 1)]


def test_a_lost_record_is_said_again_until_it_is_confirmed() -> None:
    seated = table("ab")
    contribute_all(seated, 1, 1, 1, 1)
    seated.give("a", seated.only(Push)[0])
    seated.lift(Replicate)
    seated.give("a", Tick(), now=1.0)
    assert seated.seen("a", Resent) == [Resent(0)]
    seated.settle()
    assert len(seated.installs["a"]) == len(seated.installs["b"]) == 1
    seated.give("a", Tick(), now=9.0)
    assert seated.post == []
    assert len(seated.seen("a", Resent)) == 1


def test_repeats_back_off_until_something_happens() -> None:
    seated = table()
    c = seated.peers["c"]
    seated.give("c", Contribute(push(1, 0, 1, 1, 1)), now=5.0)
    assert c.wake_at == 6.0
    waits: list[float] = []
    for _ in range(7):
        assert c.wake_at is not None
        now = c.wake_at
        seated.give("c", Tick(), now=now)
        assert c.wake_at is not None
        waits.append(c.wake_at - now)
    assert waits == [2, 4, 8, 16, 16, 16, 16]
    seated.contribute("a", 1, 0, 1, 1, 1)
    seated.contribute("b", 1, 0, 1, 1, 1)
    seated.settle()
    assert c.wake_at is None, "nothing is owed, nothing is asked"
    seated.give("c", Contribute(push(2, 1, 1, 1, 1)), now=500.0)
    assert c.wake_at == 501.0


# -------------------------------------------------------------------------------------------- bad contributions


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_contribution_that_is_not_finite_is_left_out_of_its_round(poison: float) -> None:
    seated = table()
    seated.contribute("a", 1, 0, 1, 1, 1)
    seated.contribute("b", 1, 0, 3, 3, 3)
    seated.contribute("c", 1, 0, 5, poison, 5)
    seated.settle()
    (refused,) = seated.seen("a", Refused)
    assert (refused.worker, refused.clock) == ("c", 1)
    assert seated.seen("a", Committed) == [Committed(0, 1, ("a", "b"))]
    assert seated.theta("a").tolist() == pytest.approx([0.8, 1.8, 2.8])
    assert [i.clock for name in "abc" for i in seated.installs[name]] == [1, 1, 1]
    seated.announce(view(2, "bc", ["b"], ["c"]))
    assert seated.theta("b").tolist() == pytest.approx([0.8, 1.8, 2.8]), "the standby left it out as well"


def test_a_round_of_nothing_but_bad_contributions_changes_nothing() -> None:
    seated = table("ab")
    contribute_all(seated, 1, float("nan"), 1, 1)
    seated.settle()
    assert len(seated.seen("a", Refused)) == 2
    assert seated.theta("a").tolist() == list(START)
    assert [i.version for name in "ab" for i in seated.installs[name]] == [1, 1]
    contribute_all(seated, 2, 1, 1, 1)
    seated.settle()
    assert seated.theta("a").tolist() == pytest.approx([0.9, 1.9, 2.9])


def test_a_foreign_packet_is_refused_like_a_bad_one() -> None:
    seated = table("ab")
    seated.contribute("a", 1, 0, 1, 1, 1)
    seated.contribute("b", 1, 0, 1, 1)  # two values for a fragment of three
    seated.settle()
    assert [r.worker for r in seated.seen("a", Refused)] == ["b"]
    assert seated.theta("a").tolist() == pytest.approx([0.9, 1.9, 2.9])


# ------------------------------------------------------------------------------------------------------ records


def record_of(names: str, spec: str, size: int) -> tuple[Replicate, Table]:
    """The record of one round, as it is sent; delivered as well, so that the standby has repeated it."""
    chosen = strategy()
    start = [float(i) for i in range(size)]
    seated = Table(names, chosen, lambda _: ledger(chosen, spec, start))
    seated.announce(view(1, names, ["a"], ["b"]))
    for i, name in enumerate(names):
        value = torch.linspace(-1, 1 + i, size, dtype=torch.float64)
        seated.give(name, Contribute(Push(0, 1, 0, 1.0 + i, codec(spec).encode(value))))
    seated.hand(Push)
    letter, record = seated.only(Replicate)
    seated.give("b", letter)
    seated.give("a", seated.only(Replicated)[0])
    return record, seated


@pytest.mark.parametrize(
    ("names", "spec", "mean"),
    [
        (
            "ab",
            "none",
            True,
        ),  # one packet beside the standby's own: as many bytes as their mean, which need not be taken again
        ("ab", "int8", False),  # likewise, but the mean would be rounded once more
        ("abc", "none", True),  # two
        ("abc", "int8", True),  # two of 1 byte for each value: so is the mean, once it is rounded like them
        (
            "abcdef",
            "topk:0.05",
            False,
        ),  # a mean cannot leave out what contributions left out: it takes 8 bytes for each
    ],
)
def test_a_record_carries_packets_or_their_mean_whichever_is_fewer_bytes(names: str, spec: str, mean: bool) -> None:
    record, seated = record_of(names, spec, 512)
    assert (record.mean is not None) is mean
    assert [p.worker for p in record.parts] == list(names)
    assert all((p.packet is None) == (mean or p.worker == "b") for p in record.parts)
    before = seated.theta("a").clone()
    seated.announce(view(2, names.replace("a", ""), ["b"], ["c" if "c" in names else None]), "b")
    assert torch.equal(seated.theta("b"), before), "the standby holds the same bits"
    assert seated.seen("b", HandedOff) == [HandedOff(0, 1)]


def test_a_standby_with_other_bits_asks_for_a_snapshot() -> None:
    seated = table("abc")
    contribute_all(seated, 1, 1, 1, 1)
    seated.settle()
    role = seated.peers["b"]._standbys[0]
    role.ledger.theta[1] += 1e-12
    contribute_all(seated, 2, 1, 1, 1)
    seated.hand(Push)
    letter, record = seated.only(Replicate)
    seated.give("b", letter)
    assert seated.lift(Replicated) == []
    fetch, _ = seated.only(Fetch, to="a")
    assert [i.clock for i in seated.installs["b"]] == [1], "it answers nobody with values that may be wrong"
    assert not role.ready
    # Should the request be lost, the next record brings it up again.
    seated.give("a", Tick(), now=1.0)
    seated.give("b", seated.only(Replicate)[0])
    assert len(seated.lift(Fetch)) == 1
    seated.give("a", fetch)
    seated.give("b", seated.only(Snapshot, to="b")[0])
    assert role.ready
    assert role.ledger.digest() == record.digest
    seated.settle()
    assert [i.clock for name in "abc" for i in seated.installs[name][1:]] == [2, 2, 2]


def diverging(seated: Table, monkeypatch: pytest.MonkeyPatch, rounds: int) -> list[int]:
    """The versions at which b, whose every commit comes to other bits than a's, is found to diverge."""
    book = seated.peers["b"]._standbys[0].ledger
    commit = book.commit

    def commit_otherwise(*args: Any, **more: Any) -> None:
        commit(*args, **more)
        book.theta[1] += 1e-12

    monkeypatch.setattr(book, "commit", commit_otherwise)
    snapshots = 0
    for clock in range(1, rounds + 1):
        contribute_all(seated, clock, 1, 1, 1)
        while seated.post:
            letter = seated.post.pop(0)
            snapshots += isinstance(letter.message, Snapshot)
            seated.give(letter.destination, letter)
    found = seated.seen("b", Diverged)
    assert len(found) == snapshots
    return [event.version for event in found]


def test_a_standby_that_never_comes_to_the_same_bits_asks_ever_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    seated = table("abc")
    assert diverging(seated, monkeypatch, 200) == [1, 2, 4, 8, 16, 32, 64, 128]
    assert [i.clock for i in seated.installs["b"]] == list(range(1, 201)), "meanwhile it serves its worker"
    seated.announce(view(2, "bc", ["b"], ["c"]))
    assert seated.seen("b", HandedOff) == [HandedOff(0, 200)], "and may take over"


def test_a_standby_never_stops_comparing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "APART_MAX", 4)
    assert diverging(table("ab"), monkeypatch, 18) == [1, 2, 4, 8, 12, 16]


def test_while_a_snapshot_is_under_way_it_is_not_asked_for_again() -> None:
    seated = Table("abc", strategy("asgd"))
    seated.announce(view(1, "abc", ["a"], ["b"]))
    seated.peers["b"]._standbys[0].ledger.theta[1] += 1e-12
    for clock in (1, 2, 3):
        seated.contribute("a", clock, clock - 1, 1, 1, 1)
        seated.give("b", seated.only(Replicate)[0])
    assert len(seated.lift(Fetch)) == 1
    assert seated.seen("b", Diverged) == [Diverged(0, 1)]
    seated.remind()
    assert seated.peers["b"]._standbys[0].ready
    assert torch.equal(seated.peers["b"]._standbys[0].ledger.theta, seated.theta("a"))


def test_a_standby_with_other_bits_does_not_take_over() -> None:
    seated = table("ab")
    seated.peers["b"]._standbys[0].ledger.theta[1] += 1
    contribute_all(seated, 1, 1, 1, 1)
    seated.give("a", seated.only(Push)[0])
    seated.give("b", seated.only(Replicate)[0])
    seated.announce(view(2, "b", ["b"], [None]))
    assert seated.seen("b", Orphaned) == [Orphaned(0)]
    assert seated.peers["b"].owner(0) is None


def test_a_record_out_of_order_is_left_for_the_owner_to_repeat() -> None:
    seated = table("ab")
    contribute_all(seated, 1, 1, 1, 1)
    seated.give("a", seated.only(Push)[0])
    letter, record = seated.only(Replicate)
    later = Replicate(0, 2, 1, record.parts, None, record.digest)
    seated.give("b", type(letter)("a", "b", 1, 1, later))
    assert seated.post == []
    seated.give("b", letter)
    assert seated.only(Replicated)[1].version == 1


# ------------------------------------------------------------------------------------------------- taking over


def test_a_standby_takes_over_without_losing_or_doubling_what_was_acknowledged() -> None:
    seated = table("abc")
    contribute_all(seated, 1, 3, 3, 3)
    seated.hand(Push)
    seated.give("b", seated.only(Replicate)[0])
    seated.give("a", seated.only(Replicated)[0])
    seated.post = []  # the answer to c is lost with its owner
    del seated.peers["a"]
    seated.announce(view(2, "bc", ["b"], ["c"]))
    assert seated.seen("b", HandedOff) == [HandedOff(0, 1)]
    seated.hand(Push, to="b")
    assert seated.installs["c"] == [], "not before the new standby can account for it"
    seated.settle()
    assert [(i.clock, i.version) for i in seated.installs["c"]] == [(1, 1)]
    assert seated.theta("b").tolist() == pytest.approx([0.7, 1.7, 2.7])
    contribute_all(seated, 2, 1, 1, 1)
    seated.settle()
    assert seated.theta("b").tolist() == pytest.approx([0.6, 1.6, 2.6])
    assert [i.version for i in seated.installs["c"]] == [1, 2]


def test_a_commit_that_nobody_was_told_of_is_made_again_by_the_heir() -> None:
    seated = table("abc")
    contribute_all(seated, 1, 3, 3, 3)
    seated.hand(Push)
    seated.lift(Replicate)
    assert not any(seated.installs.values())
    del seated.peers["a"]
    seated.announce(view(2, "bc", ["b"], ["c"]))
    seated.settle()
    assert seated.seen("b", HandedOff) == [HandedOff(0, 0)]
    assert seated.seen("b", Committed) == [Committed(0, 1, ("b", "c"))]
    assert seated.theta("b").tolist() == pytest.approx([0.7, 1.7, 2.7])
    assert [i.version for name in "bc" for i in seated.installs[name]] == [1, 1]


def test_a_round_closes_without_a_member_that_is_lost() -> None:
    seated = table("abc")
    seated.contribute("a", 1, 0, 1, 1, 1)
    seated.contribute("b", 1, 0, 1, 1, 1)
    seated.settle()
    assert seated.seen("a", Committed) == []
    seated.announce(view(2, "ab", ["a"], ["b"]))
    seated.settle()
    assert seated.seen("a", Committed) == [Committed(0, 1, ("a", "b"))]
    seated.remind()
    assert [len(seated.installs[name]) for name in "ab"] == [1, 1]


def test_a_lost_standby_is_replaced_and_gets_a_snapshot() -> None:
    seated = table("abc")
    contribute_all(seated, 1, 1, 1, 1)
    seated.hand(Push)
    seated.lift(Replicate)
    del seated.peers["b"]
    seated.announce(view(2, "ac", ["a"], ["c"]))
    (_, snapshot) = seated.lift(Snapshot, to="c")[0]
    assert snapshot.version == 1
    assert dict(snapshot.clocks) == {"a": 1, "b": 1, "c": 1}
    assert seated.installs["a"] == []
    seated.post = []
    seated.give("a", Tick(), now=1.0)
    assert len(seated.lift(Snapshot, to="c")) == 1, "a lost snapshot is sent again"
    seated.remind()
    assert [i.version for name in "ac" for i in seated.installs[name]] == [1, 1]
    seated.announce(view(3, "c", ["c"], [None]), "c")
    assert seated.seen("c", HandedOff) == [HandedOff(0, 1)]


def test_a_snapshot_leaves_out_what_still_waits_for_its_round() -> None:
    seated = table("abc")
    contribute_all(seated, 1, 1, 1, 1)
    seated.settle()
    seated.contribute("c", 2, 1, 1, 1, 1)
    seated.settle()
    owner = seated.peers["a"].owner(0)
    assert owner is not None
    assert owner.clocks["c"] == 2
    assert dict(owner.snapshot().clocks) == {"a": 1, "b": 1, "c": 1}


def test_a_standby_that_was_never_initialised_does_not_take_over() -> None:
    for snapshot_arrives in (False, True):
        seated = table("abc")
        contribute_all(seated, 1, 1, 1, 1)
        seated.settle()
        seated.announce(view(2, "ac", ["a"], ["c"]))
        if not snapshot_arrives:
            seated.lift(Snapshot)
        seated.settle()
        seated.announce(view(3, "c", ["c"], [None]), "c")
        if snapshot_arrives:
            assert seated.seen("c", HandedOff) == [HandedOff(0, 1)]
            assert seated.theta("c").tolist() == pytest.approx([0.9, 1.9, 2.9])
        else:
            assert seated.seen("c", Orphaned) == [Orphaned(0)]
            assert seated.peers["c"].owner(0) is None
            seated.contribute("c", 2, 1, 1, 1, 1)
            assert len(seated.installs["c"]) == 1, "it answers nothing"


def test_an_owner_that_is_no_longer_one_lays_its_part_down() -> None:
    seated = table("abc")
    seated.give("a", ViewChanged(view(2, "abc", ["b"], ["c"])))
    assert seated.peers["a"].owner(0) is None


def test_only_the_standby_of_the_view_confirms() -> None:
    seated = table("abc")
    contribute_all(seated, 1, 1, 1, 1)
    seated.hand(Push)
    letter, _ = seated.only(Replicate)
    seated.give("a", type(letter)("c", "a", 3, 1, Replicated(0, 1)))
    assert seated.installs["a"] == []
    seated.give("a", type(letter)("b", "a", 2, 1, Replicated(0, 99)))
    assert len(seated.installs["a"]) == 1
    role = seated.peers["a"].owner(0)
    assert role is not None
    assert role.confirmed == 1, "nothing is confirmed that was not committed"


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_a_contribution_of_an_absurd_weight_is_left_out_of_its_round(weight: float) -> None:
    seated = table("ab")
    seated.contribute("a", 1, 0, 1, 1, 1)
    seated.give("b", Contribute(push(1, 0, 5, 5, 5, weight=weight)))
    seated.settle()
    assert seated.theta("a").tolist() == pytest.approx([0.9, 1.9, 2.9])
    assert len(seated.seen("a", Refused)) == 1
    assert seated.seen("b", Refused) == []


def test_what_was_offered_before_a_view_changed_is_offered_again() -> None:
    """d forgets an unconfirmed offer when the view changes: a bare word that it is stable would leave d without the state."""
    seated = table("abcd")
    contribute_all(seated, 1, 1, 1, 1)
    seated.hand(Push)
    seated.hand(Params, to="d")  # offered; b, which stands by, dies with the Replicate
    assert seated.installs["d"] == []
    del seated.peers["b"]
    seated.post.clear()
    seated.announce(view(2, "acd", ["a"], ["c"]))
    seated.settle(Pull)  # d need not ask
    assert [i.version for i in seated.installs["d"]] == [1]


def test_what_leavers_contributed_is_added_in_the_order_of_their_names() -> None:
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randn(200, generator=generator, dtype=torch.float64).tolist() for name in "abcd"}
    chosen = strategy()
    ends: list[torch.Tensor] = []
    for order in ("bcd", "dcb"):
        seated = Table("abcd", chosen, lambda _: ledger(chosen, start=[0.0] * 200))
        seated.announce(view(1, "abcd", ["a"], ["b"]))
        for name in order:
            seated.contribute(name, 1, 0, *values[name])
            seated.hand(Push)
        seated.announce(view(2, "a", ["a"], [None]), "a")
        seated.contribute("a", 1, 0, *values["a"])
        ends.append(seated.theta("a"))
    assert torch.equal(ends[0], ends[1])


def test_a_peer_whose_first_view_is_a_later_one_does_not_trust_its_state() -> None:
    """In view 2 the state of a fragment may be anybody's history; only its standby of view 1 has it."""
    seated = Table("ab", strategy())
    seated.announce(view(2, "ab", ["a"], ["b"]), "a")
    assert seated.seen("a", Orphaned) == [Orphaned(0)]


def test_a_timer_learns_what_answers_take_on_these_links() -> None:
    """A repeat of what is still on a slow line would make it slower."""
    seated = table()
    c = seated.peers["c"]
    for clock in (1, 2):
        seated.give("c", Contribute(push(clock, clock - 1, 1, 1, 1)), now=100.0 * clock)
        for name in "ab":
            seated.contribute(name, clock, clock - 1, 1, 1, 1)
        for kind in (Push, Replicate, Replicated):
            seated.hand(kind)
        for letter, _ in seated.lift(Params, to="c") + seated.lift(Stable, to="c"):
            seated.give("c", letter, now=100.0 * clock + 3.0)
        seated.settle()
        assert len(seated.installs["c"]) == clock
    seated.give("c", Contribute(push(3, 2, 1, 1, 1)), now=300.0)
    assert c.wake_at == 300.0 + 8 * 3.0


def test_an_answer_that_was_asked_for_again_teaches_nothing() -> None:
    """Karn and Partridge 1987: its time is that of the timer."""
    seated = table()
    c = seated.peers["c"]
    seated.give("c", Contribute(push(1, 0, 1, 1, 1)), now=0.0)
    seated.post.clear()  # lost
    seated.give("c", Tick(), now=1.0)
    for name in "ab":
        seated.contribute(name, 1, 0, 1, 1, 1)
    seated.settle()
    assert len(seated.installs["c"]) == 1
    seated.give("c", Contribute(push(2, 1, 1, 1, 1)), now=50.0)
    assert c.wake_at == 51.0


def test_the_standby_is_served_by_the_record_alone() -> None:
    seated = table("ab")
    contribute_all(seated, 1, 1, 1, 1)
    seated.hand(Push)  # committed; the Replicate is on a slow line
    b = seated.peers["b"]
    assert b.wake_at is not None
    seated.give("b", Tick(), now=b.wake_at)
    seated.hand(Pull, to="a")
    assert seated.lift(Params, to="b") == []
    seated.settle()
    assert [i.version for i in seated.installs["b"]] == [1]
