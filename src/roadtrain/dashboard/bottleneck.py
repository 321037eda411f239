"""Why a run is not faster: one sentence, with its number and a setting that would help."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from roadtrain.plan import Link, Plan, SyncSpec

LITTLE = 0.1
"""Where workers wait less than this share of their time, computing is what takes it."""
FED = 0.15
"""From this share on, waiting for batches is what is said."""
BUSY = 0.3
"""A line that carries less than this share of its rate is not what is waited for: its round trips are."""
FEWER = {"none": ("int8", "a quarter"), "fp16": ("int8", "half"), "bf16": ("int8", "half"), "int8": ("int4", "half")}
"""By codec: one that sends less, and what share."""
PERIOD = 20
PERIODS = ("localsgd", "diloco", "streaming")
"""Strategies whose workers train by themselves between two syncs."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one worker has done. `capacity`: what its line can send, in bytes per second; None: not known."""

    id: str
    steps: int
    compute_s: float
    sync_wait_s: float
    feed_wait_s: float
    bytes_sent: float
    capacity: float | None = None

    @property
    def loop_s(self) -> float:
        """All seconds of its loop."""
        return self.compute_s + self.sync_wait_s + self.feed_wait_s

    @property
    def step_s(self) -> float:
        """Computing of one step."""
        return self.compute_s / self.steps


def loads_of(plan: Plan, workers: Mapping[str, Mapping[str, Any]], uplinks: Mapping[str, float | None]) -> list[Load]:
    """Of `workers`, by their totals. Where the plan shapes the link, that is what lines can send; else what was measured."""
    shaped = Link.parse(plan.place.link).rate_bytes_per_s if plan.place.link else None
    return [
        Load(
            id=name,
            steps=int(totals["steps"]),
            compute_s=totals["compute_s"],
            sync_wait_s=totals["sync_wait_s"],
            feed_wait_s=totals["feed_wait_s"],
            bytes_sent=totals["bytes_sent"],
            capacity=shaped or uplinks.get(name),
        )
        for name, totals in workers.items()
        if totals["steps"] and totals["compute_s"]
    ]


def bottleneck(plan: Plan, loads: Sequence[Load]) -> str | None:
    """The sentence; None where nothing was trained."""
    if not loads:
        return None
    loop_s = sum(load.loop_s for load in loads)
    fed, waits = (sum(getattr(load, name) for load in loads) / loop_s for name in ("feed_wait_s", "sync_wait_s"))
    if fed >= FED and fed > waits:
        worst = max(loads, key=lambda load: load.feed_wait_s / load.loop_s)
        return f"{worst.id} waits for batches {worst.feed_wait_s / worst.loop_s:.0%} of the time; {_feeders(plan)}"
    if waits < LITTLE or len(loads) == 1:
        return f"computing takes {1 - fed - waits:.0%} of the time; more workers (--workers) would share it"
    return _slow_worker(plan, loads) or _line(plan, loads, waits)


def _feeders(plan: Plan) -> str:
    return f"--feeders {plan.place.feeders + 1 if plan.place.feeders else 2} would make them beside it"


def _slow_worker(plan: Plan, loads: Sequence[Load]) -> str | None:
    """Where the others wait mostly for one that takes longer for a step."""
    slow = max(loads, key=lambda load: load.step_s)
    others = [load for load in loads if load is not slow]
    usual = statistics.median(load.step_s for load in others)
    waiting = max(others, key=lambda load: load.sync_wait_s / load.steps)
    if slow.step_s - usual < 0.5 * waiting.sync_wait_s / waiting.steps:
        return None
    return (
        f"{slow.id} computes {_seconds(slow.step_s)} a step, the others {_seconds(usual)}, and {waiting.id} waits "
        f"{waiting.sync_wait_s / waiting.loop_s:.0%} of the time; {_without_waiting(plan)}"
    )


def _without_waiting(plan: Plan) -> str:
    spec = SyncSpec.parse(plan.sync.strategy)
    if spec.name in PERIODS and not plan.sync.by_speed:
        return "--by-speed gives it fewer steps between two syncs than the others"
    if spec.name == "ssgd":
        return f"--sync diloco:{PERIOD} --by-speed gives it fewer steps than the others"
    return "--sync asgd waits for nobody"


def _line(plan: Plan, loads: Sequence[Load], waits: float) -> str:
    """Where they wait for what is under way."""
    known = [load for load in loads if load.capacity is not None] or loads
    busiest = max(known, key=lambda load: load.bytes_sent / load.loop_s / (load.capacity or 1.0))
    rate = busiest.bytes_sent / busiest.loop_s
    if busiest.capacity is None:
        sends = f"{busiest.id} sends {_mbit(rate)} Mbit/s on the whole"
        return f"workers wait for each other {waits:.0%} of the time, and {sends}; {_seldom(plan)}"
    carried = f"{busiest.id}'s uplink carries {_mbit(rate)} of {_mbit(busiest.capacity)} Mbit/s on the whole"
    if rate < BUSY * busiest.capacity:
        return f"workers wait {waits:.0%} of the time, though {carried}: for round trips; {_seldom(plan)}"
    return f"{carried}, and workers wait {waits:.0%} of the time; {_less(plan)}"


def _less(plan: Plan) -> str:
    if plan.codec.up in FEWER:
        codec, share = FEWER[plan.codec.up]
        return f"--codec {codec} would send about {share}"
    return _seldom(plan)


def _seldom(plan: Plan) -> str:
    spec = SyncSpec.parse(plan.sync.strategy)
    if spec.name in PERIODS and spec.argument is not None:
        return f"--sync {spec.name}:{2 * spec.argument} would agree half as often"
    return f"--sync diloco:{PERIOD} would agree {PERIOD} times less often"


def _mbit(bytes_per_s: float) -> str:
    return f"{bytes_per_s * 8 / 1e6:.3g}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
