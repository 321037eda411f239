"""Where workers go: spread over machines, never two on one device, and not where they may not."""

from __future__ import annotations

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from roadtrain.orchestrate.machine import Machine
from roadtrain.orchestrate.placement import Place, first_places, free_devices, more_places


def machine(name: str, devices: int = 1, *, takes_code: bool = True) -> Machine:
    return Machine(name=name, host="", devices=devices, kind="cpu", takes_code=takes_code, listens=True)


FLEET = [machine("a", 2), machine("b", 1, takes_code=False), machine("c", 3)]


def test_one_of_each_machine_after_the_other() -> None:
    free = free_devices(FLEET, [], with_code=False)
    assert free == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("c", 1), ("c", 2)]
    assert [machine for machine, _ in free_devices(FLEET, [], with_code=True)] == ["a", "c", "a", "c", "c"]


@given(st.sets(st.sampled_from([("a", 0), ("a", 1), ("b", 0), ("c", 0), ("c", 1), ("c", 2)])))
def test_nothing_is_given_twice(busy: set[tuple[str, int]]) -> None:
    taken = [Place(slot, *device) for slot, device in enumerate(sorted(busy))]
    free = free_devices(FLEET, taken, with_code=False)
    assert not busy & set(free)
    assert len(busy) + len(free) == 6


def test_too_few_is_none_at_all() -> None:
    free = free_devices(FLEET, [], with_code=False)
    assert first_places(free, 7) == ()
    assert first_places([], None) == ()
    assert [place.slot for place in first_places(free, 2)] == [0, 1]
    assert len(first_places(free, None)) == 6


def test_who_comes_later_takes_the_slots_that_there_are() -> None:
    free = [("d", 0), ("e", 0)]
    assert [place.slot for place in more_places(free, count(4))] == [4, 5]
    assert more_places(free, [1]) == (Place(1, "d", 0),)
    assert more_places(free, ()) == ()
