"""Fencing, routing and collecting: what a peer does with letters whoever they are for."""

from __future__ import annotations

from typing import Any

import pytest
from table import START, Table, answer, push, strategy, vector, view

from roadtrain.codec import Packet
from roadtrain.codec import parse as codec
from roadtrain.errors import PacketError
from roadtrain.message import (
    Collect,
    Contribute,
    Envelope,
    Fetch,
    Leave,
    Left,
    Nack,
    Outdated,
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
from roadtrain.sync.effects import Committed, Evicted, HandedOff, Refused, Synced

FIRST = view(1, "abc", ["a", "b"], ["b", "c"])
SECOND = view(2, "ab", ["a", "b"], ["b", "a"])
ANY: list[Remote] = [
    push(1, 0, 1, 1, 1),
    Pull(0, 1),
    Fetch(0, 0),
    answer(1, 1, 1, 1, 1),
    Stable(0, 1),
    Nack(0, 1),
    Leave(0, 0, 0, 0),
    Left(0, 1, 1, "", None),
    Snapshot(0, 0, 1, (), ()),
    Replicate(0, 1, 0, (), None, 0),
    Replicated(0, 1),
]
FOR_HOLDERS = [m for m in ANY if not isinstance(m, Params | Stable | Nack | Left)]


def table() -> Table:
    """a owns fragment 0 and b fragment 1; b and c stand by."""
    seated = Table("abc", strategy())
    seated.announce(FIRST)
    return seated


def letter(source: str, to: str, message: Remote, *, incarnation: int | None = None, number: int = 1) -> Envelope:
    born = 1 + "abcdef".index(source) if incarnation is None else incarnation
    return Envelope(source, to, born, number, message)


def contribute_all(seated: Table, clock: int) -> None:
    for name in seated.peers:
        for fragment in (0, 1):
            seated.contribute(name, clock, clock - 1, 1, 1, 1, fragment=fragment)


# ------------------------------------------------------------------------------------------------------ fencing


def test_letters_are_stamped_with_incarnation_and_view() -> None:
    seated = table()
    (sent,) = seated.contribute("c", 1, 0, 1, 1, 1).sends
    assert (sent.source, sent.destination, sent.incarnation, sent.view) == ("c", "a", 3, 1)


@pytest.mark.parametrize("message", ANY, ids=lambda m: type(m).__name__)
def test_a_letter_of_an_older_view_is_refused_with_the_current_one(message: Remote) -> None:
    seated = table()
    seated.announce(SECOND)
    seated.post = []
    effects = seated.give("a", letter("b", "a", message, number=1))
    assert [(e.destination, e.message, e.view) for e in effects.sends] == [("b", Outdated(2), 2)]
    assert effects.installs == effects.events == []
    assert seated.theta("a").tolist() == list(START)


@pytest.mark.parametrize("message", ANY, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize(("source", "incarnation"), [("b", 7), ("d", 4)])
def test_a_letter_of_an_unknown_incarnation_is_refused(message: Remote, source: str, incarnation: int) -> None:
    seated = table()
    effects = seated.give("a", letter(source, "a", message, incarnation=incarnation))
    assert [(e.destination, e.message) for e in effects.sends] == [(source, Outdated(1))]
    assert effects.installs == effects.events == []


def test_a_sleeper_learns_that_it_was_taken_for_lost() -> None:
    seated = table()
    seated.announce(SECOND)
    seated.contribute("c", 1, 0, 1, 1, 1)
    seated.settle()
    assert seated.seen("c", Evicted) == [], "what peers say is no view"
    seated.announce(SECOND, "c")
    seated.settle()
    assert seated.seen("c", Evicted) == [Evicted(2)]
    assert seated.peers["c"].evicted
    assert seated.peers["c"].wake_at is None
    assert seated.seen("a", Committed) == []
    effects = seated.give("c", letter("a", "c", Nack(0, 1), number=2))
    assert effects.sends == [], "it is silent now"


def test_who_hears_of_a_view_late_is_refused_until_then_and_goes_on() -> None:
    seated = table()
    seated.announce(SECOND, "a")
    seated.contribute("b", 1, 0, 1, 1, 1)
    seated.settle()
    assert seated.peers["b"].view == FIRST
    seated.announce(SECOND, "b")
    seated.contribute("a", 1, 0, 1, 1, 1)
    seated.settle()
    assert [i.clock for i in seated.installs["b"]] == [1]


def test_letters_of_a_newer_view_are_kept_until_it_comes() -> None:
    seated = table()
    seated.announce(SECOND, "b")
    seated.post = []
    sent = seated.contribute("b", 1, 0, 1, 1, 1).sends
    effects = seated.give("a", sent[0])
    assert effects.sends == effects.events == []
    seated.contribute("a", 1, 0, 3, 3, 3)
    assert seated.seen("a", Committed) == []
    seated.announce(SECOND, "a")
    assert seated.seen("a", Committed) == [Committed(0, 1, ("a", "b"))]


def test_letters_before_the_first_view_are_kept() -> None:
    seated = Table("ab", strategy())
    first = view(1, "ab", ["a"], ["b"])
    seated.announce(first, "b")
    seated.contribute("b", 1, 0, 1, 1, 1)
    seated.settle()
    assert seated.events["a"] == []
    seated.announce(first, "a")
    seated.contribute("a", 1, 0, 1, 1, 1)
    seated.settle()
    assert [len(seated.installs[name]) for name in "ab"] == [1, 1]


def test_an_older_view_changes_nothing() -> None:
    seated = table()
    seated.announce(SECOND, "a")
    seated.give("a", ViewChanged(FIRST))
    seated.give("a", letter("b", "a", Outdated(1)))
    assert seated.peers["a"].view == SECOND


def test_a_refusal_of_the_same_view_makes_a_peer_ask_again() -> None:
    # Its owner had not yet heard of the view in which the contribution was sent, and now it has.
    seated = table()
    seated.contribute("c", 1, 0, 1, 1, 1)
    seated.post = []
    effects = seated.give("c", letter("a", "c", Outdated(1)))
    assert [(e.destination, e.message) for e in effects.sends] == [("a", Pull(0, 1))]


# ------------------------------------------------------------------------------------------------------ routing


@pytest.mark.parametrize(
    "message", [m for m in ANY if not isinstance(m, Params | Stable | Nack | Left)], ids=lambda m: type(m).__name__
)
def test_a_letter_for_a_part_that_this_peer_does_not_have_is_dropped(message: Remote) -> None:
    seated = table()
    effects = seated.give("c", letter("b", "c", message))  # c neither owns nor stands by for fragment 0
    assert effects.sends == effects.installs == effects.events == []


@pytest.mark.parametrize("message", ANY, ids=lambda m: type(m).__name__)
def test_a_letter_for_a_fragment_that_does_not_exist_is_refused(message: Remote) -> None:
    fields: dict[str, Any] = {name: getattr(message, name) for name in message.__match_args__} | {"fragment": 99}
    foreign = type(message)(**fields)
    seated = table()
    effects = seated.give("a", letter("b", "a", foreign))
    assert effects.sends == effects.installs == []
    assert effects.events == [Refused(99, "b", 0, "there is no fragment 99")]


def test_a_commit_of_nobody_changes_nothing() -> None:
    seated = Table("abc", strategy("asgd"))
    seated.announce(FIRST)
    effects = seated.give("b", letter("a", "b", Replicate(0, 1, 0, (), None, 0)))
    assert effects.events == [Synced(0, whole=False)]
    assert seated.peers["b"].view.number == 1


def test_no_peer_can_make_another_believe_in_a_view() -> None:
    seated = table()
    seated.contribute("c", 1, 0, 1, 1, 1)
    effects = seated.give("c", letter("a", "c", Outdated(2**60)))
    assert effects.sends == effects.installs == effects.events == []
    assert seated.peers["c"].view == FIRST
    assert not seated.peers["c"].evicted


def test_an_answer_that_is_no_state_is_refused_and_asked_for_again() -> None:
    def refuse(fragment: int, packet: Packet, full: bool) -> None:
        raise PacketError("a packet of another codec")

    seated = table()
    seated.peers["c"]._accepts = refuse
    seated.give("c", Contribute(push(1, 0, 1, 2, 3)))
    effects = seated.give("c", letter("a", "c", answer(1, 1, 7, 7, 7)))
    assert effects.installs == []
    assert [type(event) for event in effects.events] == [Refused]
    assert seated.peers["c"].wake_at is not None


def test_fragments_go_on_by_themselves() -> None:
    seated = table()
    for name in "abc":
        seated.contribute(name, 1, 0, 1, 1, 1, fragment=1)
    seated.settle()
    assert [i.fragment for name in "abc" for i in seated.installs[name]] == [1, 1, 1]
    assert seated.seen("a", Committed) == []
    assert seated.theta("a", 0).tolist() == list(START)
    assert seated.theta("b", 1).tolist() == pytest.approx([0.9, 1.9, 2.9])


def test_only_the_owner_can_hand_a_standby_a_snapshot() -> None:
    seated = table()
    forged = Snapshot(0, 0, 9, (("a", 9),), (("theta", codec("none").encode(vector(7, 7, 7))),))
    seated.give("b", letter("c", "b", forged))
    assert seated.post == []
    seated.announce(view(2, "bc", ["b", "b"], ["c", "c"]), "b")
    assert HandedOff(0, 0) in seated.seen("b", HandedOff)
    assert seated.theta("b", 0).tolist() == list(START)


def test_a_snapshot_that_does_not_fit_is_refused() -> None:
    seated = table()
    short = Snapshot(0, 0, 9, (), (("theta", codec("none").encode(vector(7, 7))),))
    effects = seated.give("b", letter("a", "b", short))
    assert [type(e).__name__ for e in effects.events] == ["Refused"]
    assert seated.post == []


def test_state_bytes_counts_what_is_owned_and_stood_by() -> None:
    seated = table()
    assert [seated.peers[name].state_bytes() for name in "abc"] == [24, 48, 24]


# --------------------------------------------------------------------------------------------------- collecting


def test_a_checkpoint_takes_what_is_here_and_fetches_the_rest() -> None:
    seated = table()
    contribute_all(seated, 1)
    seated.settle()
    effects = seated.give("c", Collect())
    assert [s.fragment for s in effects.collected] == [1], "c stands by for fragment 1"
    (sent,) = effects.sends
    assert (sent.destination, sent.message) == ("a", Fetch(0, 1))
    seated.post = []
    effects = seated.give("c", Tick(), now=9.0)
    assert [e.message for e in effects.sends] == [Fetch(0, 1)], "a lost request is said again"
    reply = seated.give("a", effects.sends[0]).sends[0]
    (snapshot,) = seated.give("c", reply).collected
    assert (snapshot.fragment, snapshot.version, dict(snapshot.clocks)) == (0, 1, {"a": 1, "b": 1, "c": 1})
    assert seated.give("c", reply).collected == []
    assert seated.give("c", Tick(), now=99.0).sends == []


def test_an_owner_collects_from_itself() -> None:
    seated = Table("a", strategy())
    seated.announce(view(1, "a", ["a"], [None]))
    seated.contribute("a", 1, 0, 1, 1, 1)
    effects = seated.give("a", Collect())
    assert effects.sends == []
    assert [(s.fragment, s.version) for s in effects.collected] == [(0, 1)]


def test_a_collection_survives_the_loss_of_an_owner() -> None:
    seated = table()
    contribute_all(seated, 1)
    seated.settle()
    seated.give("c", Collect())
    seated.post = []
    del seated.peers["a"]
    seated.announce(view(2, "bc", ["b", "b"], ["c", "c"]))
    effects = seated.give("c", Tick(), now=9.0)
    (sent,) = [e for e in effects.sends if isinstance(e.message, Fetch)]
    assert sent.destination == "b"
    replies = [e for e in seated.give("b", sent).sends if isinstance(e.message, Snapshot)]
    assert [s.version for s in seated.give("c", replies[0]).collected] == [1]


def test_a_push_is_not_delivered_to_another_fragment_of_the_owner() -> None:
    seated = Table("ab", strategy())
    seated.announce(view(1, "ab", ["a", "a"], ["b", "b"]))
    for name in "ab":
        seated.contribute(name, 1, 0, 1, 0, 0, fragment=0)
        seated.contribute(name, 1, 0, 0, 0, 1, fragment=1)
    assert len(seated.lift(Push)) == 2
    seated.give("b", Tick(), now=1.0)
    seated.settle()
    assert seated.theta("a", 0).tolist() == pytest.approx([0.9, 2.0, 3.0])
    assert seated.theta("a", 1).tolist() == pytest.approx([1.0, 2.0, 2.9])


def test_a_namesake_is_another_process() -> None:
    """A view with this peer's name and another incarnation is a view without this peer."""
    seated = Table("ab", strategy())
    seated.announce(view(1, "ab", ["a"], ["b"]))
    seated.contribute("b", 1, 0, 1, 1, 1)
    seated.post.clear()
    seated.announce(view(2, "ab", ["a"], ["a"], births=5), "b")
    assert seated.seen("b", Evicted) == [Evicted(2)]
    assert seated.post == []
    assert seated.peers["b"].wake_at is None
