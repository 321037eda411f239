"""Where a run stands, as plain data: what a person is shown of it, here or from another machine."""

from __future__ import annotations

import msgspec

from roadtrain.membership.coordinator import Coordinator
from roadtrain.membership.messages import Number
from roadtrain.membership.phase import Phase


class WorkerSnapshot(msgspec.Struct, frozen=True):
    """One worker that takes part: steps that it has done, and its newest figures."""

    name: str
    step: int
    figures: dict[str, Number | None]


class RunSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """`plan`: TOML, of what the driver cannot know: a script that has said what it trains, regions that were settled; else empty.
    `expected`: workers that it begins with; `workers`: those that take part; `missing`: who has not come yet, and is expected to.
    `lost`, `back`, `warnings`: all so far, in that order. `page`: the address at which a browser shows it; empty for none."""

    phase: Phase
    plan: str
    expected: int
    workers: tuple[WorkerSnapshot, ...]
    missing: tuple[str, ...]
    lost: tuple[str, ...]
    back: tuple[str, ...]
    warnings: tuple[str, ...]
    page: str = ""

    @property
    def step(self) -> int:
        """Steps done, by the worker that has done least."""
        return min((worker.step for worker in self.workers), default=0)


def snapshot_of(coordinator: Coordinator, page: str = "") -> RunSnapshot:
    """As the coordinator sees it now, who may be seen at `page`."""
    registry = coordinator.registry
    terms = registry.terms
    return RunSnapshot(
        phase=coordinator.phase,
        plan="" if terms is None else terms.plan,
        expected=registry.expected,
        workers=tuple(WorkerSnapshot(w.name, w.step, dict(w.metrics)) for w in registry.alive()),
        missing=() if coordinator.unmodified else tuple(registry.missing()),
        lost=tuple(registry.lost),
        back=tuple(registry.back),
        warnings=tuple(coordinator.warnings),
        page=page,
    )
