"""Which workers of a run are where: pure functions of plain data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
