"""`roadtrain simulate`: from the command line's words to the report of a run in virtual time."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from roadtrain.cli.arguments import Simulate
from roadtrain.cli.interruption import stopping_at_once
from roadtrain.cli.run import check_with_torch, chosen_by
from roadtrain.cli.words import refuse_script
from roadtrain.errors import Interrupted, UsageError
from roadtrain.launch.run_request import RunRequest
from roadtrain.plan import Topology, layouts_of
from roadtrain.report import to_json

NOTE = "times are virtual: seconds on the simulated machines and links"


def simulate(command: Simulate) -> int:
    """Carry out `roadtrain simulate`; returns the exit code. Raises UsageError, RunFailed."""
    with stopping_at_once():
        order = make_order(command, os.environ)
        from roadtrain.cli.simulation_progress import SimulationProgress  # from here on torch is imported
        from roadtrain.cli.text_report import show
        from roadtrain.launch.simulated_run import run_virtual

        check_with_torch(order)
    began = time.monotonic()
    try:
        steps = order.plan.job.steps * order.plan.place.workers
        with SimulationProgress(steps, quiet=command.json) as clockface:
            report = run_virtual(order, clockface.watch)
    except KeyboardInterrupt:
        raise Interrupted("stopped; a simulation cannot be gone on with") from None
    took = time.monotonic() - began
    print(to_json(report)) if command.json else show(report, f"{NOTE}; it took {took:.1f} s here")
    return 0


def make_order(command: Simulate, environment: Mapping[str, str]) -> RunRequest:
    """The run that is wanted, checked. Raises UsageError."""
    refuse_script(command.target, "a simulation")
    order = RunRequest.of(chosen_by(command, environment, command.flags), command.out)
    if order.plan.simulate.topology:
        order = _placed(order, command)
    order.check()
    plan = order.plan
    if plan.job.compile:
        raise UsageError("--compile changes no virtual time, and the gradients are the same", "leave it out")
    if layouts_of(plan):
        named = f"layout {plan.layout.spread[0]}" if plan.layout.spread else "ssgd:allreduce"
        raise UsageError(
            f"{named} is torch's own and knows no virtual time", "--sync ssgd without a layout ends in the same weights"
        )
    return order


def _placed(order: RunRequest, command: Simulate) -> RunRequest:
    """The order with as many workers as its topology has."""
    plan = order.plan
    if plan.place.link:
        raise UsageError("--link and --topology both say what lies between workers", "leave one out")
    workers = Topology.load(Path(plan.simulate.topology)).workers
    if ("place", "workers") in command.flags and plan.place.workers != workers:
        raise UsageError(f"--workers {plan.place.workers}, but the topology has {workers}", "leave --workers out")
    return order.changed("place", workers=workers)
