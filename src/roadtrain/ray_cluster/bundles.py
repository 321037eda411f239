"""What each process of a run is to have of a Ray cluster, and where it sits. Pure: does not import Ray."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from roadtrain.launch.cores import cores
from roadtrain.plan import Plan
from roadtrain.ray_cluster.asked import Asked

Bundle = Mapping[str, float]
"""Amounts of resources, as Ray names them."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A worker's number on its machine, and how many there are. One that has a GPU of its own sees no other: it is 0 of 1."""

    local: int
    siblings: int


def bundles_of(plan: Plan, asked: Asked, *, own: bool, gpus: float) -> Sequence[Bundle]:
    """One for each worker, then one for each feeder. `gpus`: how many there are. `own`: the cluster is this machine's, for this
    run: what it has is shared out."""
    workers = plan.place.workers
    processors = asked.cpus if asked.cpus is not None else max(1, cores() // workers) if own else 1
    return [{"CPU": processors, **_part(plan, asked, own, gpus)}] * workers + [{"CPU": 1}] * plan.place.feeders


def _part(plan: Plan, asked: Asked, own: bool, gpus: float) -> Bundle:
    """Of the GPUs, for one worker."""
    wanted = gpus and plan.place.device.partition(":")[0] in ("auto", "cuda")
    usual = (min(1.0, math.floor(1000 * gpus / plan.place.workers) / 1000) if own else 1.0) if wanted else 0.0
    part = usual if asked.gpus is None else asked.gpus
    return {"GPU": part} if part else {}


def total(bundles: Sequence[Bundle]) -> Bundle:
    """Of all together."""
    amounts: Counter[str] = Counter()
    for bundle in bundles:
        amounts.update(bundle)  # pyright: ignore[reportArgumentType] counts may be fractions
    return amounts


def lacking(wanted: Bundle, there: Bundle) -> str:
    """What there is too little of, in words; "" for nothing."""
    short = [
        f"{there.get(name, 0):g} of {wanted[name]:g} {name}s" for name in wanted if there.get(name, 0) < wanted[name]
    ]
    return " and ".join(short)


def seat_of(hosts: Sequence[str], bundles: Sequence[Bundle], number: int) -> Seat:
    """Of the worker `number`. `hosts`: of all workers."""
    if bundles[number].get("GPU"):
        return Seat(0, 1)
    return Seat(list(hosts[:number]).count(hosts[number]), list(hosts).count(hosts[number]))
