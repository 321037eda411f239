"""A run that leaves its regions to its machines (`--regions auto`): where its workers go, what its plan becomes, and how that is
said."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from roadtrain.orchestrate.placement import Device, Group, Place, groups_near
from roadtrain.plan import Plan, in_regions, layouts_of, region_layout, seat_of

MEASURED_S = 10.0
"""A run waits so long for measurements; then it goes by what is known."""


@dataclass(frozen=True, slots=True)
class Near:
    """What is known of machines: `clusters` of those that are near each other, and which only dial out. `awaited`: more will be
    known soon."""

    clusters: Sequence[tuple[str, ...]]
    dials_out: Collection[str]
    awaited: bool


@dataclass(frozen=True, slots=True)
class Regions:
    """What was settled. `said`: in one line."""

    places: tuple[Place, ...]
    plan: Plan
    said: str
    event: dict[str, Any]


def regions_of(asked: Plan, workers: int | None, free: Sequence[Device], near: Near) -> Regions | None:
    """The places and the plan of a run that wants so many workers (None: all); None while there is too little room."""
    layout = region_layout(asked)
    size = None if layout is None else layout.size
    groups = groups_near(free, near.clusters, near.dials_out, size=size, workers=workers)
    if not groups:
        return None
    devices = [device for group in groups for device in group]
    places = tuple(Place(slot, machine, device) for slot, (machine, device) in enumerate(devices))
    plan = in_regions(asked, [len(group) for group in groups])
    return Regions(places, plan, _said(asked, plan, groups), _event(plan, groups))


def lacking(asked: Plan) -> str:
    """What it waits for where there is too little room, in one line; "" for machines alone."""
    layout = region_layout(asked)
    return "" if layout is None else f"it waits for machines that are near each other: {layout.size} for each {layout}"


def returning(
    plan: Plan, vacant: Iterable[int], places: Sequence[Place], free: Sequence[Device], near: Near
) -> list[Place]:
    """Places for slots that are `vacant`, of a run whose workers share replicas: near the others of their region, and where they
    can be dialled."""
    found, left = list(places), list(free)
    for slot in vacant:
        seat = seat_of(plan, slot)
        mates = {place.machine for place in found if seat_of(plan, place.slot).region == seat.region}
        able = [device for device in left if seat.layout.size == 1 or _fits(device[0], mates, near)]
        if able:
            left.remove(able[0])
            found.append(Place(slot, *able[0]))
    return found[len(places) :]


def _fits(machine: str, mates: Collection[str], near: Near) -> bool:
    cluster = next((cluster for cluster in near.clusters if machine in cluster), ())
    return machine not in near.dials_out and set(mates) <= set(cluster)


def _said(asked: Plan, plan: Plan, groups: Sequence[Group]) -> str:
    strategy, layouts = plan.sync.strategy, layouts_of(plan)
    if not layouts:
        found = "all machines are near each other" if len(groups) == 1 else "no two machines are near each other"
        return f"regions: one, as {found}; every worker is a replica by itself, {strategy} between them"
    if len(layouts) == 1:
        return f"regions: one, {layouts[0]} of {_names(groups[0])}; without {asked.sync.strategy}, which is between regions"
    each = [
        f"r{number} {_names(group)} ({layout})"
        for number, (group, layout) in enumerate(zip(groups, layouts, strict=True))
    ]
    return f"regions: {', '.join(each)}; {strategy} between them"


def _names(group: Group) -> str:
    return " ".join(dict.fromkeys(machine for machine, _ in group))


def _event(plan: Plan, groups: Sequence[Group]) -> dict[str, Any]:
    """Of `events.jsonl`. Where every worker is a replica by itself, there is one region, which has no layout."""
    layouts = layouts_of(plan)
    together = groups if layouts else [tuple(device for group in groups for device in group)]
    found, first = list[dict[str, Any]](), 0
    for number, group in enumerate(together):
        workers = [f"w{slot}" for slot in range(first, first + len(group))]
        layout = str(layouts[number]) if layouts else None
        machines = list(dict.fromkeys(machine for machine, _ in group))
        found.append({"region": f"r{number}", "layout": layout, "workers": workers, "machines": machines})
        first += len(group)
    return {"event": "regions", "regions": found, "sync": plan.sync.strategy}
