"""Sees a run through on a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass

from roadtrain.launch.attempts import see_through
from roadtrain.launch.run_folder import RunLock
from roadtrain.launch.run_request import RunRequest
from roadtrain.launch.supervisor import Watcher
from roadtrain.launch.words import Words
from roadtrain.ray_cluster.actors import RayActors
from roadtrain.ray_cluster.cluster import Cluster
from roadtrain.ray_cluster.placement import Placement, placed
from roadtrain.report import Report


def run_on_ray(cluster: Cluster, order: RunRequest, watcher: Watcher, words: Words | None = None) -> Report:
    """Run `order` with its workers on `cluster`, as `see_through` does. Raises UsageError too, where a node will not do."""
    with placed(order.plan, cluster) as placement:
        return see_through(order, RaySite(placement), watcher, words)


@dataclass(frozen=True, slots=True)
class RaySite:
    """Where workers are actors."""

    placement: Placement

    @property
    def host(self) -> str:
        """See `Site`."""
        return self.placement.host

    def crew(self, order: RunRequest, lock: RunLock, words: Words | None) -> RayActors:
        """See `Site`. Actors do not outlive the driver, which alone holds the lock."""
        return RayActors(self.placement, order.folder, words)
