"""Which workers of a run are where: pure functions of plain data."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec

from roadtrain.orchestrate.machine import Machine


class Place(msgspec.Struct, frozen=True):
    """The worker of `slot` is on `device` of `machine`, in the process number `generation` there."""

    slot: int
    machine: str
    device: int
    generation: int = 1


Device = tuple[str, int]
"""A machine's name, and the number of one of its devices."""


def free_devices(machines: Iterable[Machine], taken: Iterable[Place], *, with_code: bool) -> list[Device]:
    """Devices that nothing runs on, at machines that may run it: one of each machine after the other, so that a run is spread."""
    busy = {(place.machine, place.device) for place in taken}
    able = [machine for machine in machines if machine.takes_code or not with_code]
    rounds = range(max((machine.devices for machine in able), default=0))
    every = [(machine.name, device) for device in rounds for machine in able if device < machine.devices]
    return [device for device in every if device not in busy]


def first_places(free: Sequence[Device], workers: int | None) -> tuple[Place, ...]:
    """Where a run of so many workers (None: of all that there is room for) begins; empty while there is too little room."""
    count = len(free) if workers is None else workers
    if not count or len(free) < count:
        return ()
    return tuple(Place(slot, machine, device) for slot, (machine, device) in enumerate(free[:count]))


def more_places(free: Sequence[Device], slots: Iterable[int]) -> tuple[Place, ...]:
    """Places to add to a run that goes on: for what is free, as long as there are `slots`."""
    return tuple(Place(slot, machine, device) for slot, (machine, device) in zip(slots, free, strict=False))


Group = tuple[Device, ...]
"""Devices of one region, machine by machine."""


def groups_near(
    free: Sequence[Device],
    near: Iterable[Sequence[str]],
    dials_out: Collection[str],
    *,
    size: int | None,
    workers: int | None,
) -> tuple[Group, ...]:
    """Regions of `free` devices, those with most room first; none while there is too little for `workers` (None: all that fit).

    `near`: machines that are near each other, by cluster; those that only dial out share no replica, and each of their devices is
    a region. `size`: workers of every region, and what fills none is left out; None: each cluster is one.
    """
    clusters = [
        [device for device in free if device[0] in machines and device[0] not in dials_out] for machines in near
    ]
    clusters += [[device] for device in free if device[0] in dials_out]
    groups: list[Group] = []
    left = len(free) if workers is None else workers
    for cluster in sorted(clusters, key=len, reverse=True):
        count = min(left, len(cluster))
        count -= count % (size or 1)
        order = list(dict.fromkeys(machine for machine, _ in cluster))
        taken = sorted(cluster[:count], key=lambda device: order.index(device[0]))
        each = size or max(1, count)
        groups += [tuple(taken[first : first + each]) for first in range(0, count, each)]
        left -= count
    return tuple(groups) if workers is None or not left else ()
