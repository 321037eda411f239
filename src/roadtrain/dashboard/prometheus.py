"""A coordinator's figures as Prometheus reads them (text exposition format 0.0.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from roadtrain.dashboard.watched import Watched

LABELS = ("run", "worker")
COUNTERS = {
    "steps": ("step", "Local steps done."),
    "samples": ("samples", "Samples used in them."),
    "sent_bytes": ("bytes_sent", "Bytes sent over connections."),
    "compute_seconds": ("compute_s", "Seconds in forward, backward and optimizer."),
    "sync_wait_seconds": ("sync_wait_s", "Seconds of waiting for other workers."),
    "feed_wait_seconds": ("feed_wait_s", "Seconds of waiting for batches."),
}
"""By name: the worker's field, and what it is."""


class _Figures(Collector):
    def __init__(self, watched: Watched) -> None:
        self._watched = watched

    def collect(self) -> Iterator[Metric]:
        workers, runs = self._watched.workers(), self._watched.runs()
        for name, (field, what) in COUNTERS.items():
            yield _by_worker(CounterMetricFamily(f"roadtrain_{name}", what, labels=LABELS), workers, field)
        yield _by_worker(GaugeMetricFamily("roadtrain_loss", "Loss of the last step.", labels=LABELS), workers, "loss")
        yield _counted("roadtrain_workers", "Workers by state.", (each["state"] for each in workers))
        yield _counted("roadtrain_machines", "Machines by state.", (each["state"] for each in self._watched.machines()))
        yield _counted("roadtrain_runs", "Runs by status.", (each["status"] for each in runs))
        lost = CounterMetricFamily("roadtrain_lost_workers", "Workers lost so far.", labels=("run",))
        for run in runs:
            lost.add_metric((run["run"],), run["lost"])
        yield lost


def _by_worker(metric: Any, workers: Iterable[Mapping[str, Any]], field: str) -> Metric:
    for worker in workers:
        if worker.get(field) is not None:
            metric.add_metric((worker["run"], worker["id"]), worker[field])
    return metric


def _counted(name: str, what: str, states: Iterable[str]) -> Metric:
    metric = GaugeMetricFamily(name, what, labels=("state",))
    for state, number in sorted(Counter(states).items()):
        metric.add_metric((state,), number)
    return metric


def exposition(watched: Watched) -> bytes:
    """The text for what is watched just now."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(watched))
    return generate_latest(registry)
