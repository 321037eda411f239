"""What follows when a run has failed that could go on: the same order from its last checkpoint, or in smaller pieces."""

from __future__ import annotations

import json
from dataclasses import replace

from roadtrain.checkpoint.folder import steps_in
from roadtrain.errors import RunFailed, UsageError
from roadtrain.launch.run_request import RunRequest
from roadtrain.membership.coordinator import Coordinator
from roadtrain.plan import layouts_of, replica_groups_of


def after_failure(order: RunRequest, coordinator: Coordinator) -> RunRequest | None:
    """The order to go on with, or None where the failure stands.

    A worker that was killed took a part of a replica with it, of which the last checkpoint has all. One that ran out of memory
    computes its batch in twice as many micro-batches: the same sums in pieces.
    """
    if coordinator.error is not None and not isinstance(coordinator.error, RunFailed):
        return None
    smaller = _smaller(order) if coordinator.out_of_memory else None
    again = order if coordinator.killed and replica_groups_of(order.plan) else None
    try:
        found = smaller if coordinator.out_of_memory else again
        return None if found is None else _resumed(found)
    except UsageError:  # no checkpoint is whole: the failure stands
        return None


def _smaller(order: RunRequest) -> RunRequest | None:
    """The order with twice the micro-batches; None where a batch has no smaller pieces."""
    plan, layouts = order.plan, layouts_of(order.plan)
    if not layouts or any(layout.naive for layout in layouts):
        return None
    now = plan.layout.micro_batches or max(layout.pp for layout in layouts)
    if plan.job.batch % (2 * now):
        return None
    return order.changed("layout", micro_batches=2 * now)


def _resumed(order: RunRequest) -> RunRequest:
    order.write_plan()
    return order.from_newest()[0] if steps_in(order.checkpoints) else replace(order, resume=None)


def note(before: RunRequest, after: RunRequest, error: RunFailed) -> None:
    """Write into the run's events that it starts again, and why."""
    event: dict[str, object] = {
        "event": "restarted",
        "reason": error.message,
        "from_checkpoint": after.resume is not None,
    }
    if after.plan.layout.micro_batches != before.plan.layout.micro_batches:
        event["micro_batches"] = after.plan.layout.micro_batches
    with (before.folder / "events.jsonl").open("a", encoding="utf-8") as events:
        events.write(json.dumps(event) + "\n")
