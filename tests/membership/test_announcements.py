"""What members are told of a view."""

from __future__ import annotations

import msgspec
from people import details

from roadtrain.membership.announcements import HEIRS, Announcements
from roadtrain.membership.effects import Effects
from roadtrain.membership.messages import NewView, Part
from roadtrain.membership.registry import Registry


def told(registry: Registry, name: str) -> NewView:
    out = Effects()
    Announcements(registry).tell(name, out)
    ((_, message),) = out.messages
    assert isinstance(message, NewView)
    return message


def begun(workers: int, groups: tuple[int, ...] = ()) -> Registry:
    made = Registry(workers, groups)
    for slot in range(workers):
        said = details(slot, digests={"trained": f"digest {slot}"})
        made.join(msgspec.structs.replace(said, heir=f"127.0.0.1:{6000 + slot}" if slot != 1 else ""), now=0.0)
    made.begin(0.0)
    return made


def test_where_each_member_is_and_what_it_built() -> None:
    message = told(begun(2), "w1")
    assert message.addresses == {"w0": "127.0.0.1:5000", "w1": "127.0.0.1:5001"}
    assert message.first == {"w0": {"trained": "digest 0"}, "w1": {"trained": "digest 1"}}


def test_the_heirs_are_the_first_members_that_can() -> None:
    heirs = told(begun(9), "w8").heirs
    assert list(heirs) == ["w0", "w2", "w3", "w4", "w5"][:HEIRS]
    assert heirs["w2"] == "127.0.0.1:6002"


def test_of_replica_groups_the_firsts_are_heirs_before_the_others() -> None:
    message = told(begun(6, (2, 2, 2)), "w3")
    assert list(message.heirs) == ["w0", "w2", "w4", "w3", "w5"]
    assert message.parts == {"w1": Part(2, ""), "w3": Part(4, "127.0.0.1:6003"), "w5": Part(6, "127.0.0.1:6005")}


def test_a_group_that_is_lost_is_named_no_more() -> None:
    registry = begun(4, (2, 2))
    registry.lose(["w2", "w3"])
    message = told(registry, "w0")
    assert list(message.heirs) == ["w0"]
    assert list(message.parts) == ["w1"]


def test_who_is_lost_learns_that_it_is_out_and_nothing_else() -> None:
    registry = begun(3)
    registry.lose(["w2"])
    assert told(registry, "w2").addresses == {}
    message = told(registry, "w0")
    assert set(message.addresses) == {"w0", "w1"}
    assert message.lost == ("w2",)
    assert message.awaited, "the new standbys hold nothing yet"
