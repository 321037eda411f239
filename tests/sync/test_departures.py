"""Those who have no more to give: nobody waits for them, and all hold what a fragment ends with."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from table import START, Table, ledger, strategy, vector, view

from roadtrain.codec import parse as codec
from roadtrain.message import Depart, Leave, Left, Push, Replicate, Tick, ViewChanged
from roadtrain.sync.departures import Departures
from roadtrain.sync.effects import Apart, Committed, Effects
from roadtrain.sync.ledger import NONE
from roadtrain.view import PeerId


class Parting(Table):
    """A table whose peers leave; `left`: what each was told."""

    def __init__(self, name: str, names: str = "abc", spec: str = "none") -> None:
        super().__init__(names, strategy(name), spec=spec)
        self.left: dict[PeerId, list[Left]] = defaultdict(list)
        self.announce(view(1, names, ["a"], ["b"]))

    def give(self, name: PeerId, event, now: float = 0.0) -> Effects:
        effects = super().give(name, event, now)
        self.left[name] += effects.left
        return effects

    def depart(self, name: PeerId, clock: int, version: int | None = None, digest: int = 0) -> None:
        self.give(name, Depart(Leave(0, clock, clock if version is None else version, digest)))

    def round(self, names: str, clock: int) -> None:
        for name in names:
            self.contribute(name, clock, clock - 1, 1, 1, 1)
        self.settle()

    def told(self) -> dict[PeerId, int]:
        """How often each was told that all have left."""
        return {name: len(self.left[name]) for name in self.peers}


# ------------------------------------------------------------------------------------------------------- not waited for


def test_a_round_does_not_wait_for_who_has_left() -> None:
    seated = Parting("ssgd")
    seated.round("abc", 1)
    seated.depart("c", 1)
    seated.settle()
    seated.round("ab", 2)
    assert seated.seen("a", Committed)[-1] == Committed(0, 2, ("a", "b"))
    assert [len(seated.installs[name]) for name in "abc"] == [2, 2, 1]


def test_a_round_that_waits_closes_when_the_last_one_leaves() -> None:
    seated = Parting("ssgd")
    seated.round("abc", 1)
    seated.round("ab", 2)
    assert len(seated.seen("a", Committed)) == 1
    seated.depart("c", 1)
    seated.settle()
    assert seated.seen("a", Committed)[-1] == Committed(0, 2, ("a", "b"))


@pytest.mark.parametrize(("name", "last"), [("ssp:1", 2), ("ssp:2", 3)])
def test_the_gate_does_not_wait_for_who_has_left(name: str, last: int) -> None:
    seated = Parting(name)
    for clock in range(1, last + 1):
        for fast in "bc":
            seated.contribute(fast, clock, 0, 1, 1, 1)
            seated.settle()
    assert [len(seated.installs[fast]) for fast in "bc"] == [last - 1, last - 1]
    seated.depart("a", 0)
    seated.settle()
    assert [len(seated.installs[fast]) for fast in "bc"] == [last, last]


def test_the_owner_may_leave_and_goes_on_owning() -> None:
    seated = Parting("ssgd")
    seated.round("abc", 1)
    seated.depart("a", 1)
    for clock in (2, 3):
        seated.round("bc", clock)
    assert [i.version for i in seated.installs["c"]] == [1, 2, 3]
    assert seated.told() == {"a": 0, "b": 0, "c": 0}


# ----------------------------------------------------------------------------------------------------------- all have


@pytest.mark.parametrize("name", ["ssgd", "asgd", "ssp:1", "localsgd:2"])
def test_all_are_told_when_all_have_left(name: str) -> None:
    seated = Parting(name)
    seated.round("abc", 1)
    version = {peer: seated.installs[peer][-1].version for peer in "abc"}
    for leaver in "ca":
        seated.depart(leaver, 1, version[leaver])
        seated.settle()
        assert seated.told() == {"a": 0, "b": 0, "c": 0}
    seated.depart("b", 1, version["b"])
    seated.settle()
    assert seated.told() == {"a": 1, "b": 1, "c": 1}
    assert all(found[0].furthest == "" for found in seated.left.values())


def test_a_fleet_of_one_is_told_at_once() -> None:
    seated = Table("a", strategy("ssgd"))
    seated.announce(view(1, "a", ["a"], [None]))
    effects = seated.give("a", Depart(Leave(0, 0, 0, 0)))
    assert effects.left == [Left(0, 0, 0, "", None)]


def test_values_come_to_who_holds_an_older_version() -> None:
    """asgd: everybody was answered at another version; in the end all hold the last one, uncompressed."""
    seated = Parting("asgd", spec="int8")
    for name in "abc":
        seated.contribute(name, 1, 0, 1, 1, 1)
        seated.settle()
    versions = {name: seated.installs[name][-1].version for name in "abc"}
    assert versions == {"a": 1, "b": 2, "c": 3}
    for name in "abc":
        seated.depart(name, 1, versions[name])
    seated.settle()
    assert {name: found[0].version for name, found in seated.left.items()} == {"a": 3, "b": 3, "c": 3}
    assert seated.left["c"][0].packet is None, "it holds them"
    role = seated.peers["a"].owner(0)
    assert role is not None
    for name in "ab":
        packet = seated.left[name][0].packet
        assert packet is not None
        assert torch.equal(NONE.decode(packet), role.ledger.final())


@pytest.mark.parametrize(("digests", "furthest"), [((7, 7, 7), ""), ((7, 8, 7), "b"), ((0, 0, 0), "")])
def test_who_took_part_longest_is_named_where_models_differ(digests: tuple[int, ...], furthest: str) -> None:
    seated = Parting("ssgd")
    seated.round("abc", 1)
    for name in "ac":
        seated.depart(name, 1, digest=digests["abc".index(name)])
    seated.settle()
    seated.round("b", 2)
    seated.depart("b", 2, digest=digests[1])
    seated.settle()
    assert {found[0].furthest for found in seated.left.values()} == {furthest}


# ---------------------------------------------------------------------------------------------------------- misfortune


def test_a_lost_leave_is_said_again() -> None:
    seated = Parting("ssgd")
    seated.round("abc", 1)
    for name in "abc":
        seated.depart(name, 1)
    seated.settle(Leave)
    assert seated.told() == {"a": 0, "b": 0, "c": 0}
    seated.remind()
    assert seated.told() == {"a": 1, "b": 1, "c": 1}


def test_a_lost_answer_is_asked_for_again() -> None:
    seated = Parting("ssgd")
    seated.round("abc", 1)
    for name in "abc":
        seated.depart(name, 1)
    seated.settle(Left)
    assert seated.told() == {"a": 1, "b": 0, "c": 0}, "the owner is told without a letter"
    seated.remind()
    assert seated.told() == {"a": 1, "b": 1, "c": 1}
    assert all(peer.wake_at is None for peer in seated.peers.values()), "nobody is owed anything"


def test_a_doubled_answer_is_heard_once() -> None:
    seated = Parting("ssgd")
    seated.round("abc", 1)
    for name in "abc":
        seated.depart(name, 1)
    while not (letters := seated.lift(Left, "c")):
        letter = seated.post.pop(0)
        seated.give(letter.destination, letter)
    for _ in range(2):
        seated.give("c", letters[0][0])
    assert len(seated.left["c"]) == 1


@pytest.mark.parametrize("told", [False, True], ids=["before anybody is told", "when one has been told"])
def test_an_owner_lost_in_between_hangs_nobody(told: bool) -> None:
    """Departures are not replicated: those who have left say it to the heir, those too who have had their answer."""
    seated = Parting("ssgd")
    seated.round("abc", 1)
    for name in "abc" if told else "bc":
        seated.depart(name, 1)
    if told:
        seated.hand(Leave)
        seated.hand(Left, to="c")
        seated.lift(Left)
    else:
        seated.settle()
    assert [len(seated.left[name]) for name in "bc"] == [0, int(told)]
    del seated.peers["a"]
    seated.announce(view(2, "bc", ["b"], ["c"]))
    seated.settle()
    assert [len(seated.left[name]) for name in "bc"] == [1, 1 + told], "who had the answer is told again"


def test_the_loss_of_the_last_one_that_trains_lets_the_others_go() -> None:
    seated = Parting("ssgd")
    seated.round("abc", 1)
    for name in "ab":
        seated.depart(name, 1)
    seated.settle()
    assert seated.told() == {"a": 0, "b": 0, "c": 0}
    del seated.peers["c"]
    seated.announce(view(2, "ab", ["a"], ["b"]))
    seated.settle()
    assert seated.told() == {"a": 1, "b": 1}


def test_nobody_is_let_go_before_the_standby_can_account_for_the_end() -> None:
    seated = Parting("asgd")
    seated.contribute("c", 1, 0, 1, 1, 1)
    for name, clock in (("a", 0), ("b", 0), ("c", 1)):
        seated.depart(name, clock)
    seated.hand(Push)
    seated.hand(Leave)
    assert seated.told() == {"a": 0, "b": 0, "c": 0}
    assert len(seated.lift(Replicate)) == 1
    seated.give("a", Tick(), now=100.0)
    seated.settle()
    assert seated.told() == {"a": 1, "b": 1, "c": 1}


def test_who_comes_back_has_not_left() -> None:
    """A worker of the same name that was started again is waited for anew."""
    seated = Parting("ssgd")
    seated.round("abc", 1)
    seated.depart("c", 1)
    seated.settle()
    seated.announce(view(2, "ab", ["a"], ["b"]))
    returned = view(3, "abc", ["a"], ["b"])
    members = (*returned.members[:2], type(returned.members[2])("c", 9))
    seated.peers["c"] = type(seated.peers["c"])("c", 9, strategy("ssgd"), lambda _: ledger(strategy("ssgd")), 1.0)
    for name in "abc":
        seated.give(name, ViewChanged(type(returned)(3, members, returned.owners, returned.standbys)))
    for name in "ab":
        seated.depart(name, 1)
    seated.settle()
    assert [len(seated.left[name]) for name in "ab"] == [0, 0]
    seated.depart("c", 1)
    seated.settle()
    assert [len(seated.left[name]) for name in "abc"] == [1, 1, 1]


# ------------------------------------------------------------------------------------------------------- the book itself


def book(*leaves: tuple[str, int, int, int]) -> Departures:
    kept = Departures(0)
    for worker, clock, version, digest in leaves:
        kept.add(worker, Leave(0, clock, version, digest))
    return kept


def test_each_is_told_once_for_each_time_it_asks() -> None:
    kept, state = book(("a", 1, 0, 0), ("b", 2, 0, 0)), ledger(strategy())
    assert [worker for worker, _ in kept.answers(["a", "b"], state)] == ["a", "b"]
    assert kept.answers(["a", "b"], state) == []
    kept.add("b", Leave(0, 2, 0, 0))
    assert [worker for worker, _ in kept.answers(["a", "b"], state)] == ["b"]


def test_the_values_of_the_end_are_encoded_once() -> None:
    state = ledger(strategy(), "int8")
    state.commit(vector(1, 1, 1), 1)
    (_, one), (_, two) = book(("a", 1, 0, 0), ("b", 1, 0, 0)).answers(["a", "b"], state)
    assert one.packet is not None
    assert one.packet is two.packet
    assert torch.equal(codec("none").decode(one.packet), state.final())
    assert state.final().tolist() != list(START)


def test_those_that_are_lost_are_forgotten() -> None:
    kept = book(("a", 1, 0, 0), ("b", 1, 0, 0))
    kept.keep(["a"])
    assert "b" not in kept
    assert kept.staying(["a", "b"]) == ["b"]
    assert [worker for worker, _ in kept.answers(["a"], ledger(strategy()))] == ["a"]


@pytest.mark.parametrize(
    ("digests", "clocks", "apart"),
    [((5, 5, 5), (2, 2, 2), ()), ((5, 6, 5), (2, 2, 2), ("a", "b", "c")), ((5, 6, 5), (2, 1, 2), ())],
    ids=["same", "another model", "one with fewer batches"],
)
def test_those_that_end_with_other_models_are_told_of(
    digests: tuple[int, ...], clocks: tuple[int, ...], apart: tuple[str, ...]
) -> None:
    seated = Parting("ssgd")
    for name, clock, digest in zip("abc", clocks, digests, strict=True):
        seated.depart(name, clock, 0, digest)
    seated.settle()
    assert seated.told() == dict.fromkeys("abc", 1)
    assert [event.workers for event in seated.seen("a", Apart)] == ([apart] if apart else [])
