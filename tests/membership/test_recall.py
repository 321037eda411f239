"""A coordinator that takes the place of a lost one: it asks, and goes on from what those know who take part."""

from __future__ import annotations

import msgspec
import pytest
from people import SIZES, Run, details

from roadtrain.errors import PeerError
from roadtrain.membership.coordinator import Coordinator
from roadtrain.membership.effects import Effects
from roadtrain.membership.messages import Done, Freeze, Frozen, Holds, Join, Metrics, NewView, Shutdown
from roadtrain.membership.phase import Phase
from roadtrain.membership.recall import GRACE_S, NotYet, Recall
from roadtrain.membership.registry import TERM, NoPlace, Registry
from roadtrain.view import View


class Successor:
    """A coordinator that takes the place of `before`, whose workers have been told what it said last."""

    def __init__(self, before: Run, workers: int, groups: tuple[int, ...] = ()) -> None:
        registry = Registry(workers, groups, returns=True)
        self.recall = Recall(registry)
        self.coordinator = Coordinator(registry, recall=self.recall)
        self.told = _told(before)
        self.out = Effects()

    def join(self, name: str, now: float = 0.0, told: NewView | None = None):
        told = told or self.told
        self.worker, self.out = self.coordinator.join(_again(name, told), now)
        return self.worker

    def tick(self, now: float) -> Effects:
        self.coordinator._ticked_s = now  # pyright: ignore[reportPrivateUsage]
        self.out = self.coordinator.tick(now)
        return self.out

    @property
    def view(self) -> View:
        view = self.coordinator.registry.view
        assert view is not None
        return view


def _told(before: Run) -> NewView:
    """The newest view that a member of `before` was told, taken from what its coordinator tells one that is back."""
    name = before.alive()[0]
    out = before.coordinator.again(before.workers[name], 0.0)
    return next(message for _, message in out.messages if isinstance(message, NewView))


def _again(name: str, told: NewView) -> Join:
    """What a member says to a coordinator that it does not know."""
    said = details(int(name[1:]))
    part = told.parts.get(name)
    incarnation = told.view.incarnations.get(name, 1) if part is None else part.incarnation
    return msgspec.structs.replace(said, incarnation=incarnation, told=told)


def begun(workers: int, groups: tuple[int, ...] = ()) -> Run:
    return Run(workers, returns=True, groups=groups)


def test_it_goes_on_when_all_have_been_heard_with_a_view_that_all_can_tell_from_the_ones_before():
    before = begun(3)
    after = Successor(before, 3)
    for name in ("w0", "w1", "w2"):
        assert after.coordinator.phase is Phase.RECALLING
        after.join(name)
        after.tick(0.1)
    assert after.coordinator.phase is Phase.TRAINING
    old = after.told.view
    assert (after.view.owners, after.view.standbys, after.view.members) == (old.owners, old.standbys, old.members)
    assert after.view.number == TERM
    told = {name for name, message in after.out.messages if isinstance(message, NewView)}
    assert told == {"w0", "w1", "w2"}


def test_a_member_that_is_dead_is_lost_and_its_fragments_go_to_their_standbys():
    before = begun(3)
    after = Successor(before, 3)
    after.join("w1")
    after.join("w2")
    assert after.recall.unheard() == {"w0": "127.0.0.1:5000"}
    after.recall.refused("w0")
    out = after.tick(0.1)
    assert after.coordinator.phase is Phase.TRAINING
    assert after.view.peers == ("w1", "w2")
    old = after.told.view
    heirs = [s if o == "w0" else o for o, s in zip(old.owners, old.standbys, strict=True)]
    assert list(after.view.owners) == heirs
    assert [event["worker"] for event in out.events if event["event"] == "lost"] == ["w0"]


def test_one_that_is_silent_is_waited_for_if_most_are_here():
    after = Successor(begun(3), 3)
    after.join("w1", 1.0)
    after.join("w2", 1.5)
    after.tick(1.5 + GRACE_S)
    assert after.coordinator.phase is Phase.RECALLING
    after.tick(1.6 + GRACE_S)
    assert after.coordinator.phase is Phase.TRAINING
    assert after.view.peers == ("w1", "w2")


@pytest.mark.parametrize(("here", "of"), [(1, 2), (1, 3), (2, 4)])
def test_no_more_than_half_decide_nothing_however_long(here: int, of: int):
    after = Successor(begun(of), of)
    for slot in range(here):
        after.join(f"w{slot}")
    after.tick(10_000.0)
    assert after.coordinator.phase is Phase.RECALLING


def test_one_alone_goes_on_when_the_others_are_known_to_be_dead():
    after = Successor(begun(2), 2)
    after.join("w1")
    after.recall.refused("w0")
    after.tick(0.1)
    assert after.view.peers == ("w1",)


def test_the_newest_view_that_anybody_was_told_counts():
    before = begun(4)
    old = _told(before)
    before.exited("w3")
    after = Successor(before, 4)
    after.join("w1", told=old)
    after.join("w0")
    after.join("w2", told=old)
    after.tick(0.1)
    assert after.view.peers == ("w0", "w1", "w2")
    assert after.view.owners == after.told.view.owners
    assert after.coordinator.registry.lost == ["w3"]


def test_what_was_held_once_is_held_once_until_its_standby_says_otherwise():
    before = begun(3)
    before.exited("w0")
    after = Successor(before, 3)
    assert after.told.awaited, "the new standbys hold nothing yet"
    fragment = after.told.awaited[0].fragment
    standby = after.told.view.standbys[fragment]
    assert standby is not None
    for name in ("w1", "w2"):
        worker = after.join(name)
        if name == standby and worker is not None:
            after.coordinator.receive(worker, Holds(after.told.view.number, fragment), 0.0)
    after.tick(0.1)
    registry = after.coordinator.registry
    assert [each.fragment for each in registry.redundancy.awaited()] == [
        each.fragment for each in after.told.awaited if each.fragment != fragment
    ]


def test_whoever_was_lost_before_is_told_that_it_is_out():
    before = begun(3)
    old = _told(before)
    before.exited("w2")
    after = Successor(before, 3)
    after.join("w0")
    with pytest.raises(NotYet):
        after.join("w2", told=old)
    after.join("w1")
    after.tick(0.1)
    worker = after.join("w2", told=old)
    assert worker is not None
    told = next(message for name, message in after.out.messages if name == "w2" and isinstance(message, NewView))
    assert not told.addresses
    newcomer, _ = after.coordinator.join(details(2, "process2"), 1.0)
    assert newcomer is not None
    assert newcomer.incarnation > worker.incarnation


def test_a_newcomer_is_answered_when_it_is_known_who_takes_part():
    after = Successor(begun(2), 2)
    after.join("w0")
    with pytest.raises(NotYet):
        after.coordinator.join(details(1, "another"), 0.0)
    after.join("w1")
    after.tick(0.1)
    with pytest.raises(NoPlace):
        after.coordinator.join(details(1, "another"), 0.0)


def test_what_members_have_said_already_is_taken_in_when_it_decides():
    after = Successor(begun(2), 2)
    for name in ("w0", "w1"):
        worker = after.join(name)
        assert worker is not None
        after.coordinator.receive(worker, Metrics(7, 0.5), 0.0)
        after.coordinator.receive(worker, Done(10, True, {}), 0.0)
        assert after.coordinator.phase is Phase.RECALLING
    after.tick(0.1)
    assert after.coordinator.phase is Phase.FINISHING


def test_a_stop_that_was_asked_for_goes_on():
    after = Successor(begun(2), 2)
    for name in ("w0", "w1"):
        worker = after.join(name)
        assert worker is not None
    after.coordinator.receive(after.coordinator.registry.workers["w0"], Frozen(5), 0.0)
    out = after.tick(0.1)
    assert after.coordinator.phase is Phase.STOPPING
    assert {name for name, message in out.messages if isinstance(message, Freeze)} == {"w0", "w1"}


def test_a_view_that_cannot_be_is_refused():
    after = Successor(begun(2), 2)
    broken = View(5, after.told.view.members, ("w9",) * len(SIZES), after.told.view.standbys)
    with pytest.raises(PeerError):
        after.join("w0", told=msgspec.structs.replace(after.told, view=broken))
    with pytest.raises(PeerError):
        after.join("w0", told=msgspec.structs.replace(after.told, addresses={"w0": "127.0.0.1:1"}))
    other = View(5, after.told.view.members, after.told.view.owners[:-1], after.told.view.standbys[:-1])
    with pytest.raises(PeerError, match="another model"):
        after.join("w0", told=msgspec.structs.replace(after.told, view=other))
    assert after.coordinator.registry.view is None, "nothing of it was taken in"


# ------------------------------------------------------------------------------------------------ replica groups


PAIRS = (2, 2)


def test_of_replica_groups_all_workers_are_asked_not_only_their_firsts():
    after = Successor(begun(4, PAIRS), 4, PAIRS)
    for name in ("w0", "w2", "w3"):
        after.join(name)
        after.tick(0.1)
        assert after.coordinator.phase is Phase.RECALLING
    assert list(after.recall.unheard()) == ["w1"]
    after.join("w1")
    out = after.tick(0.1)
    assert after.coordinator.phase is Phase.TRAINING
    assert after.view.peers == ("w0", "w2")
    assert {name for name, message in out.messages if isinstance(message, NewView)} == {"w0", "w1", "w2", "w3"}
    assert [worker.group for worker in after.coordinator.registry.alive()] == ["w0", "w0", "w2", "w2"]


@pytest.mark.parametrize("dead", ["w0", "w1"])
def test_a_group_of_which_one_worker_is_dead_is_lost_as_a_whole(dead: str):
    after = Successor(begun(4, PAIRS), 4, PAIRS)
    for name in {"w0", "w1", "w2", "w3"} - {dead}:
        after.join(name)
    after.recall.refused(dead)
    out = after.tick(0.1)
    assert after.view.peers == ("w2",)
    assert sorted(event["worker"] for event in out.events if event["event"] == "lost") == ["w0", "w1"]
    left = next(name for name in ("w0", "w1") if name != dead)
    told = next(message for name, message in out.messages if name == left and isinstance(message, NewView))
    assert not told.addresses, "it learns that it is out"


def test_half_of_the_workers_are_not_most_though_they_are_most_of_the_members():
    groups = (1, 1, 4)
    after = Successor(begun(6, groups), 6, groups)
    for name in ("w0", "w1", "w2"):
        after.join(name)
    after.tick(10_000.0)
    assert after.coordinator.phase is Phase.RECALLING


def test_of_one_replica_in_parts_the_loss_of_one_is_the_end():
    groups = (3,)
    after = Successor(begun(3, groups), 3, groups)
    for name in ("w1", "w2"):
        after.join(name)
    after.recall.refused("w0")
    out = after.tick(0.1)
    assert after.coordinator.phase is Phase.OVER
    assert after.coordinator.error is not None
    reasons = {name: message.reason for name, message in out.messages if isinstance(message, Shutdown)}
    assert reasons["w1"] == reasons["w2"] == after.coordinator.error.message


def test_a_group_that_had_come_back_is_known_again_by_what_it_is_now():
    before = begun(4, PAIRS)
    before.exited("w3")
    for slot in (2, 3):
        before.join(slot, process=f"again{slot}")
    after = Successor(before, 4, PAIRS)
    for name in ("w0", "w1", "w2", "w3"):
        worker = after.join(name)
        assert worker is not None
        assert worker.late == (name in ("w2", "w3"))
    after.tick(0.1)
    assert after.view.peers == ("w0", "w2")
    assert after.coordinator.registry.back == ["w2", "w3"]


def test_a_view_that_lacks_workers_of_a_group_is_refused():
    after = Successor(begun(4, PAIRS), 4, PAIRS)
    parts = {"w1": after.told.parts["w1"]}
    with pytest.raises(PeerError, match="replica groups"):
        after.join("w0", told=msgspec.structs.replace(after.told, parts=parts))
    strangers = {**after.told.parts, "w9": after.told.parts["w1"]}
    with pytest.raises(PeerError, match="replica groups"):
        after.join("w0", told=msgspec.structs.replace(after.told, parts=strangers))
