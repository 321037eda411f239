"""A fleet at a glance, as its page and `roadtrain status` show it: machines, runs, workers, and the ways between them."""

from __future__ import annotations

from collections.abc import Set
from itertools import combinations
from typing import Any

from roadtrain.dashboard.broadcast import Broadcast
from roadtrain.dashboard.series import Series
from roadtrain.dashboard.watched import Rows
from roadtrain.fleet.records import read_events, read_lines
from roadtrain.fleet.run_state import links_of, regions_of, summary_of, workers_of
from roadtrain.fleet.sessions import Sessions
from roadtrain.membership.regions import regions
from roadtrain.orchestrate.hosted_run import HostedRun
from roadtrain.orchestrate.hub import Hub, Presence
from roadtrain.plan import Target

OVER_MAX = 8
"""Runs that were over when this coordinator began, and whose curves are kept at hand."""
SHOWN_S = 600.0
"""So long a machine that is away is shown."""


class FleetState:
    """What is shown of `hub`. `links` and `regions` are those of runs' workers, `machine_links` and `machine_regions` those of
    machines: measured by these, and by the workers that they have, in their own traffic."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._over: dict[str, Series] = {}

    @property
    def broadcast(self) -> Broadcast:
        """As in `dashboard.watched.Watched`, and so all that follow."""
        return self._hub.broadcast

    def machines(self) -> Rows:
        busy = self._hub.busy()
        return [_machine(self._hub, presence, busy) for presence in self._shown()]

    def workers(self, run: str | None = None) -> Rows:
        return [
            {**worker, "machine": machines[worker["id"]]}
            for run, sessions in self._running(run)
            for machines in [machines_of(run)]
            for worker in workers_of(sessions)
            if worker["id"] in machines
        ]

    def runs(self) -> Rows:
        return [_run(run) for run in self._hub.runs.values()]

    def links(self, most: int | None = None) -> Rows:
        return [link for _, sessions in self._running() for link in links_of(sessions, most)]

    def regions(self) -> Rows:
        return [
            {"run": run.id, "region": f"r{number}", "workers": list(workers)}
            for run, sessions in self._running()
            for number, workers in enumerate(_regions(self._hub, run, sessions))
        ]

    def machine_links(self, most: int | None = None) -> Rows:
        return _machine_links(self._hub, self._here()[:most], self.links(most))

    def machine_regions(self) -> Rows:
        near = self._hub.links.regions(self._here())
        return [{"region": f"r{number}", "machines": list(machines)} for number, machines in enumerate(near)]

    def series(self, run: str) -> Series:
        hosted = self._hub.run(run)
        if hosted.control is not None:
            return hosted.control.sessions.series
        if run not in self._over:
            while len(self._over) >= OVER_MAX:
                self._over.pop(next(iter(self._over)))
            self._over[run] = Series(read_lines(hosted.folder))
        return self._over[run]

    def events(self, run: str, after: int) -> Rows:
        hosted = self._hub.run(run)
        if hosted.control is not None and hosted.status == "running":
            return hosted.control.sessions.store.events(after)
        return read_events(hosted.folder, after)

    def _shown(self) -> list[Presence]:
        return [each for each in self._hub.presences.values() if self._hub.now() - each.heard_s < SHOWN_S]

    def _here(self) -> list[str]:
        return [presence.machine.name for presence in self._shown() if self._hub.is_here(presence)]

    def _running(self, only: str | None = None) -> list[tuple[HostedRun, Sessions]]:
        runs = self._hub.runs.values() if only is None else filter(None, [self._hub.runs.get(only)])
        return [(run, run.control.sessions) for run in runs if run.control is not None and run.status == "running"]


def _run(run: HostedRun) -> dict[str, Any]:
    known = {} if run.control is None else summary_of(run.control.sessions)
    plan = run.asked
    return {
        "sync": plan.sync.strategy,
        "steps": None if plan.job.target and Target.parse(plan.job.target).is_script else plan.job.steps,
        "lost": 0,
        **known,
        "run": run.id,
        "target": run.submission.target,
        "status": run.status,
        "workers": len(run.places),
        "submitted": round(run.made, 1),
        "note": run.note,
    }


def _regions(hub: Hub, run: HostedRun, sessions: Sessions) -> list[tuple[str, ...]]:
    """Which workers of a run are near each other: by their own connections, and by what is known of their machines. Of workers
    that share a replica only one has connections to others."""
    workers = [worker for region in regions_of(sessions) for worker in region["workers"]]
    rtts_ms = {(link["from"], link["to"]): link["rtt_ms"] for link in links_of(sessions) if link["rtt_ms"] is not None}
    machines = machines_of(run)
    for one, other in combinations(workers, 2):
        rtt_ms = hub.links.rtt_ms(machines.get(one), machines.get(other))
        if rtt_ms is not None:
            rtts_ms[one, other] = min(rtt_ms, rtts_ms.get((one, other), rtt_ms))
    return regions(workers, rtts_ms)


def machines_of(run: HostedRun) -> dict[str, str]:
    """The machine that each worker is on."""
    return {f"w{place.slot}": place.machine for place in run.places}


def _machine(hub: Hub, presence: Presence, busy: Set[str]) -> dict[str, Any]:
    machine = presence.machine
    return {
        "machine": machine.name,
        "host": machine.host,
        "devices": machine.devices,
        "kind": machine.kind,
        "takes_code": machine.takes_code,
        "state": _standing(hub, presence, busy),
    }


def _standing(hub: Hub, presence: Presence, busy: Set[str]) -> str:
    if not hub.is_here(presence):
        return "away"
    if presence.leaving or presence.asked_to_leave:
        return "leaving"
    return "busy" if presence.machine.name in busy else "idle"


def _machine_links(hub: Hub, here: list[str], links: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """From each to each: what machines have measured, and what their workers see now in their own traffic. Both say what a line
    carries at least, so the higher rate counts; of round trips the newer one, which is the workers'."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for one, other in combinations(sorted(here), 2):
        link = hub.links.known.get((one, other))
        if link is not None and link.rtt_ms is not None:
            age_s = round(hub.now() - link.measured, 1)
            said = {"via": "direct", "rtt_ms": link.rtt_ms, "run": None, "age_s": age_s}
            found[one, other] = {**said, "mb_per_s": link.out}
            found[other, one] = {**said, "mb_per_s": link.back}
    machines = {run: machines_of(hub.runs[run]) for run in {link["run"] for link in links}}
    for link in links:
        run = hub.runs[link["run"]]
        one, other = machines[run.id].get(link["from"]), machines[run.id].get(link["to"])
        if one is not None and other is not None and one != other and link["rtt_ms"] is not None:
            rates = [link["mb_per_s"], found.get((one, other), {}).get("mb_per_s")]
            rate = max((rate for rate in rates if rate is not None), default=None)
            said = {"via": link["via"], "rtt_ms": link["rtt_ms"], "run": run.id, "age_s": 0.0}
            found[one, other] = {**said, "mb_per_s": rate}
    ranks = {name: rank for rank, name in enumerate(here)}
    known = sorted((pair for pair in found if {*pair} <= {*here}), key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return [{"from": one, "to": other, **found[one, other]} for one, other in known]
