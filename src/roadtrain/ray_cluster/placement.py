"""Where Ray puts a run's processes: a placement group with one bundle for each worker, then one for each feeder."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from roadtrain.errors import UsageError
from roadtrain.plan import Plan
from roadtrain.ray_cluster.bundles import Bundle, Seat, bundles_of, lacking, seat_of, total
from roadtrain.ray_cluster.cluster import Cluster
from roadtrain.wire.own_address import own_address

LOOK_S = 0.5
SAY_S = 5.0
"""It is said that Ray has no room after so long; each time takes twice as long."""
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Placement:
    """Of so many `workers`, and feeders. `host`: the address of this process that they reach; loopback where all are on its
    machine."""

    group: PlacementGroup
    bundles: Sequence[Bundle]
    workers: int
    host: str

    def seat(self, number: int) -> Seat:
        """Of the worker `number` now: Ray moves those whose node is gone."""
        return seat_of(_hosts(self.group)[: self.workers], self.bundles, number)


@contextmanager
def placed(plan: Plan, cluster: Cluster) -> Iterator[Placement]:
    """Room for the processes of `plan`, waited for as long as need be. Raises UsageError where there can never be any."""
    there = ray.cluster_resources()
    bundles = bundles_of(plan, cluster.asked, own=cluster.own, gpus=there.get("GPU", 0))
    short = lacking(total(bundles), there)
    if short and cluster.own:
        raise UsageError(f"this machine's Ray has {short} that the run wants", "ask for less: --on ray,cpus=N,gpus=N")
    group = placement_group([dict(bundle) for bundle in bundles], strategy="PACK")
    try:
        _await(group, f"{short} that the run wants" if short else "no room yet for the run")
        yield Placement(group, bundles, plan.place.workers, _host(cluster, _hosts(group)))
    finally:
        remove_placement_group(group)


def _await(group: PlacementGroup, why: str) -> None:
    began, say_s = time.monotonic(), SAY_S
    while not group.wait(LOOK_S):
        waited = time.monotonic() - began
        if waited >= say_s:
            say_s *= 2
            print(f"the Ray cluster has {why} ({waited:.0f} s); it is waited for", file=sys.stderr, flush=True)


def _hosts(group: PlacementGroup) -> list[str]:
    """The address of each bundle's node."""
    nodes: list[dict[str, Any]] = ray.nodes()
    address = {node["NodeID"]: str(node["NodeManagerAddress"]) for node in nodes}
    table: dict[str, Any] = placement_group_table(group)
    found = table["bundles_to_node_id"]
    return [address.get(found[number], "") for number in sorted(found)]


def _host(cluster: Cluster, hosts: Sequence[str]) -> str:
    """The address of this process that actors on `hosts` reach."""
    if cluster.asked.is_client:
        return own_address(cluster.asked.address.partition("://")[2].partition("/")[0])
    own = ray.util.get_node_ip_address()
    return LOOPBACK if set(hosts) <= {own} else own
