"""A run at a glance, as its coordinator sees it: plain data."""

from __future__ import annotations

from typing import Any

from roadtrain.dashboard.bottleneck import bottleneck, loads_of
from roadtrain.fleet.sessions import Sessions
from roadtrain.membership.regions import regions

SHOWN = ("loss", "staleness")
"""Of a worker's newest line of metrics."""


def workers_of(sessions: Sessions) -> list[dict[str, Any]]:
    """Its workers, those that are gone too. `waits`: for others, just now; `rtt_ms`: of the connection to the coordinator.
    Totals, such as `compute_s`, are over all processes that a worker has had."""
    registry, lanes = sessions.coordinator.registry, sessions.series.lanes
    alive = {worker.name for worker in registry.alive()}
    found: list[dict[str, Any]] = []
    for worker in sorted(registry.workers.values(), key=lambda each: each.slot):
        lane = lanes.get(worker.name)
        shown = {} if lane is None else {**lane.totals, **{name: lane.newest.get(name) for name in SHOWN}}
        found.append(
            {
                "run": sessions.run,
                "id": worker.name,
                "slot": worker.slot,
                "host": worker.said.host,
                "step": worker.step,
                "state": "quarantined" if worker.name in registry.quarantined else worker.state.value,
                "alive": worker.name in alive,
                "waits": worker.waits,
                "rtt_ms": round(worker.rtt_s * 1000, 2),
                **shown,
            }
        )
    return found


def links_of(sessions: Sessions, most: int | None = None) -> list[dict[str, Any]]:
    """The ways between workers, from each to each, as they measured them last; of the first `most` of them."""
    alive = sessions.coordinator.registry.alive()[:most]
    return [
        {
            "run": sessions.run,
            "from": worker.name,
            "to": peer,
            "via": link.via,
            "rtt_ms": link.rtt_ms,
            "mb_per_s": link.mb_per_s,
        }
        for worker in alive
        for peer in (other.name for other in alive)
        if (link := worker.links.get(peer)) is not None
    ]


def regions_of(sessions: Sessions) -> list[dict[str, Any]]:
    """Which workers are near each other, by the round trips of their connections."""
    alive = sessions.coordinator.registry.alive()
    links = [(worker.name, peer, link.rtt_ms) for worker in alive for peer, link in worker.links.items()]
    rtts_ms = {(name, peer): rtt_ms for name, peer, rtt_ms in links if rtt_ms is not None}
    near = regions([worker.name for worker in alive], rtts_ms)
    return [{"run": sessions.run, "region": f"r{n}", "workers": list(found)} for n, found in enumerate(near)]


def summary_of(sessions: Sessions) -> dict[str, Any]:
    """Where it stands, in few figures. `step`: of the worker that has done least; `loss`: their mean; `lost`: how many were;
    `bottleneck`: what slows it."""
    registry = sessions.coordinator.registry
    alive = registry.alive()
    losses = [loss for worker in alive if (loss := worker.metrics.get("loss")) is not None]
    return {
        "run": sessions.run,
        "phase": sessions.coordinator.phase.value,
        "workers": len(alive) or registry.expected,
        "step": min((worker.step for worker in alive), default=0),
        "loss": sum(losses) / len(losses) if losses else None,
        "lost": len(registry.lost),
        "bottleneck": bottleneck(sessions.plan, loads_of(sessions.plan, *_loads(sessions))),
    }


def _loads(sessions: Sessions) -> tuple[dict[str, dict[str, float]], dict[str, float | None]]:
    """Totals of the workers that take part, as far as they have said them, and what their lines can send."""
    alive, lanes = sessions.coordinator.registry.alive(), sessions.series.lanes
    totals = {
        worker.name: {**lanes[worker.name].totals, "steps": lanes[worker.name].newest["step"]}
        for worker in alive
        if worker.name in lanes
    }
    return totals, {worker.name: worker.uplink for worker in alive}
