"""Where workers go: spread over machines, never two on one device, and not where they may not."""

from __future__ import annotations

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from roadtrain.orchestrate.machine import Machine
from roadtrain.orchestrate.placement import Place, first_places, free_devices, groups_near, more_places


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


WIDE = [("a", 0), ("b", 0), ("c", 0), ("d", 0), ("a", 1), ("c", 1)]
NEAR = [("a", "b"), ("c",), ("d",)]


def test_regions_are_what_is_near_machine_by_machine() -> None:
    groups = groups_near(WIDE, NEAR, (), size=None, workers=None)
    assert groups == ((("a", 0), ("a", 1), ("b", 0)), (("c", 0), ("c", 1)), (("d", 0),))


def test_so_many_workers_are_near_each_other_as_can_be() -> None:
    assert groups_near(WIDE, NEAR, (), size=None, workers=3) == ((("a", 0), ("a", 1), ("b", 0)),)
    assert groups_near(WIDE, NEAR, (), size=None, workers=4)[1:] == ((("c", 0),),)
    assert groups_near(WIDE, NEAR, (), size=None, workers=7) == ()


def test_of_a_layout_every_region_is_full_and_what_fills_none_is_left_out() -> None:
    groups = groups_near(WIDE, NEAR, (), size=2, workers=None)
    assert groups == ((("a", 0), ("b", 0)), (("c", 0), ("c", 1)))
    assert groups_near(WIDE, NEAR, (), size=2, workers=4) == groups
    assert groups_near(WIDE, NEAR, (), size=2, workers=6) == (), "there are no two more that are near each other"
    assert groups_near(WIDE, NEAR, (), size=3, workers=3) == ((("a", 0), ("a", 1), ("b", 0)),)


def test_who_only_dials_out_shares_no_replica() -> None:
    groups = groups_near(WIDE, NEAR, {"a"}, size=None, workers=None)
    assert sorted(groups, key=len, reverse=True) == list(groups)
    assert (("a", 0),) in groups
    assert (("a", 1),) in groups
    assert groups_near(WIDE, NEAR, {"a", "c"}, size=2, workers=None) == ()


@given(
    st.sets(st.tuples(st.sampled_from("abcdef"), st.integers(0, 2)), min_size=1),
    st.lists(st.integers(0, 2), min_size=6, max_size=6),
    st.sets(st.sampled_from("abcdef")),
    st.sampled_from([None, 1, 2, 3]),
    st.sampled_from([None, 1, 2, 4, 6]),
)
def test_no_device_is_in_two_regions_and_all_of_a_region_are_near(
    devices: set[tuple[str, int]], clusters: list[int], dials_out: set[str], size: int | None, workers: int | None
) -> None:
    of = dict(zip("abcdef", clusters, strict=True))
    near = [tuple(machine for machine in of if of[machine] == number) for number in range(3)]
    groups = groups_near(sorted(devices), near, dials_out, size=size, workers=workers)
    placed = [device for group in groups for device in group]
    assert len(placed) == len({*placed}) <= len(devices)
    assert {*placed} <= devices
    for group in groups:
        machines = {machine for machine, _ in group}
        assert len({of[machine] for machine in machines}) == 1
        assert len(group) == 1 or not machines & dials_out
        assert size in (None, len(group))
    assert not groups or workers in (None, len(placed))
