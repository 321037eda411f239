"""A fleet at a glance, as `roadtrain status` shows it: machines, runs, workers, and the ways between them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

from roadtrain.membership.regions import regions

if TYPE_CHECKING:
    from roadtrain.orchestrate.hosted_run import HostedRun
    from roadtrain.orchestrate.hub import Hub, Presence

SHOWN_S = 600.0
"""So long a machine that is away is shown."""


def state_of(hub: Hub) -> dict[str, Any]:
    """As plain data. `links` and `regions` are those of runs' workers, `machine_links` and `machine_regions` those of machines:
    measured by these, and by the workers that they have, in their own traffic."""
    shown = [p for p in hub.presences.values() if hub.now() - p.heard_s < SHOWN_S]
    running = [run for run in hub.runs.values() if run.control is not None and run.status == "running"]
    inside = {run.id: run.control.sessions.state() for run in running if run.control is not None}
    links = [{**link, "run": run.id} for run in running for link in inside[run.id]["links"]]
    here = [presence.machine.name for presence in shown if hub.is_here(presence)]
    return {
        "machines": [_machine(hub, presence) for presence in shown],
        "workers": [
            {**worker, "run": run.id, "machine": machine}
            for run in running
            for worker in inside[run.id]["workers"]
            if (machine := machine_of(run, worker["id"])) is not None
        ],
        "runs": [
            {
                "run": run.id,
                "target": run.submission.target,
                "status": run.status,
                "workers": len(run.places),
                "submitted": round(run.made, 1),
            }
            for run in hub.runs.values()
        ],
        "links": links,
        "regions": [
            {"run": run.id, "region": f"r{number}", "workers": list(workers)}
            for run in running
            for number, workers in enumerate(_regions(hub, run, inside[run.id]))
        ],
        "machine_links": _machine_links(hub, here, links),
        "machine_regions": [
            {"region": f"r{number}", "machines": list(machines)}
            for number, machines in enumerate(hub.links.regions(here))
        ],
    }


def _regions(hub: Hub, run: HostedRun, inside: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Which workers of a run are near each other: by their own connections, and by what is known of their machines. Of workers
    that share a replica only one has connections to others."""
    workers = [worker for region in inside["regions"] for worker in region["workers"]]
    rtts_ms = {(link["from"], link["to"]): link["rtt_ms"] for link in inside["links"] if link["rtt_ms"] is not None}
    for one, other in combinations(workers, 2):
        rtt_ms = hub.links.rtt_ms(machine_of(run, one), machine_of(run, other))
        if rtt_ms is not None:
            rtts_ms[one, other] = min(rtt_ms, rtts_ms.get((one, other), rtt_ms))
    return regions(workers, rtts_ms)


def machine_of(run: HostedRun, worker: str) -> str | None:
    """The machine that a worker is on."""
    return next((place.machine for place in run.places if f"w{place.slot}" == worker), None)


def _machine(hub: Hub, presence: Presence) -> dict[str, Any]:
    machine = presence.machine
    return {
        "machine": machine.name,
        "host": machine.host,
        "devices": machine.devices,
        "kind": machine.kind,
        "takes_code": machine.takes_code,
        "state": _standing(hub, presence),
    }


def _standing(hub: Hub, presence: Presence) -> str:
    if not hub.is_here(presence):
        return "away"
    busy = presence.machine.name in hub.busy()
    return "leaving" if presence.leaving else "busy" if busy else "idle"


def _machine_links(hub: Hub, here: list[str], links: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """From each to each: what machines have measured, and what their workers see now in their own traffic. Both say what a line
    carries at least, so the higher rate counts; of round trips the newer one, which is the workers'."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for (one, other), link in hub.links.known.items():
        if link.rtt_ms is not None:
            age_s = round(hub.now() - link.measured, 1)
            said = {"via": "direct", "rtt_ms": link.rtt_ms, "run": None, "age_s": age_s}
            found[one, other] = {**said, "mb_per_s": link.out}
            found[other, one] = {**said, "mb_per_s": link.back}
    for link in links:
        run = hub.runs[link["run"]]
        one, other = machine_of(run, link["from"]), machine_of(run, link["to"])
        if one is not None and other is not None and one != other and link["rtt_ms"] is not None:
            rates = [link["mb_per_s"], found.get((one, other), {}).get("mb_per_s")]
            rate = max((rate for rate in rates if rate is not None), default=None)
            said = {"via": link["via"], "rtt_ms": link["rtt_ms"], "run": run.id, "age_s": 0.0}
            found[one, other] = {**said, "mb_per_s": rate}
    ranks = {name: rank for rank, name in enumerate(here)}
    known = sorted((pair for pair in found if {*pair} <= {*here}), key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return [{"from": one, "to": other, **found[one, other]} for one, other in known]
