"""A run's report, put together from what its workers counted. Real and virtual runs end in the same one."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roadtrain.dashboard.bottleneck import bottleneck, loads_of
from roadtrain.launch.run_request import RunRequest
from roadtrain.plan import as_dict
from roadtrain.report import (
    Bytes,
    Events,
    FeederReport,
    Lead,
    Report,
    Staleness,
    Status,
    Throughput,
    WorkerReport,
    to_json,
)
from roadtrain.session.stats import WorkerStats


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What is known of the whole run. `result`: `val_loss`, `sample` and `tokens_per_sample` where they are known.

    `model_bytes`: bytes of all that travels. `regions`: where each worker is, r0 where nothing is said. `samples`: in counted
    contributions, by worker, where there is a ledger of them; elsewhere those that workers have computed count. `feeders`: all
    that there were; `bad_samples`: those that were left out.
    """

    status: Status
    wall_s: float
    first_step_s: float | None
    result: Mapping[str, Any]
    model_bytes: int
    events: Events
    regions: Mapping[str, str] = field(default_factory=dict[str, str])
    samples: Mapping[str, int] = field(default_factory=dict[str, int])
    feeders: Sequence[str] = ()
    bad_samples: Sequence[int] = ()


def summarise(order: RunRequest, by_worker: Mapping[str, Mapping[str, Any]], outcome: Outcome) -> Report:
    """The report of `order`; `by_worker`: the fields of `session.stats.WorkerStats` by worker."""
    nothing = WorkerStats().as_dict()  # is known of those that were killed, beside what they contributed
    by_worker = {**{name: {**nothing, "samples": count} for name, count in outcome.samples.items()}, **by_worker}
    in_ledger = {name: count - by_worker[name]["left_out"] for name, count in outcome.samples.items()}
    plan, counted, result = order.plan, by_worker.values(), outcome.result
    steps = sum(t["steps"] for t in counted)
    samples = sum(in_ledger.values()) or sum(t["samples"] for t in counted)
    tokens = samples * int(result.get("tokens_per_sample", 0))
    busy = max((t["wall_s"] for t in counted), default=0.0)
    losses = [t["loss"] for t in counted if math.isfinite(t["loss"])]
    compute, loop = sum(t["compute_s"] for t in counted), sum(t["wall_s"] for t in counted)
    return Report(
        run=order.run,
        folder=str(order.folder),
        recipe=plan.job.target,
        plan=as_dict(plan),
        status=outcome.status,
        steps=steps,
        samples=samples,
        tokens=tokens,
        train_loss=statistics.fmean(losses) if losses else None,
        val_loss=result.get("val_loss"),
        metrics={name[4:]: value for name, value in result.items() if name.startswith("val_") and name != "val_loss"},
        wall_s=outcome.wall_s,
        first_step_s=outcome.first_step_s,
        throughput=Throughput(
            samples_per_s=samples / busy if busy else 0.0, tokens_per_s=tokens / busy if busy else 0.0
        ),
        utilisation=min(1.0, compute / loop) if loop else 0.0,
        bytes=Bytes(
            sent=sum(t["bytes_sent"] for t in counted),
            received=sum(t["bytes_received"] for t in counted),
            inside=sum(t["bytes_inside"] for t in counted),
            uncompressed=_uncompressed(plan.place.workers, outcome.model_bytes, steps),
        ),
        staleness=_staleness(counted),
        lead=Lead(max=max((t["lead_max"] for t in counted), default=0)),
        workers=tuple(
            _worker(name, {**stats, "samples": in_ledger.get(name, stats["samples"])}, outcome.regions.get(name, "r0"))
            for name, stats in sorted(by_worker.items(), key=lambda item: int(item[0][1:]))
        ),
        events=outcome.events,
        feeders=tuple(FeederReport(id=name, samples=_fed(name, counted)) for name in outcome.feeders),
        bad_samples=tuple(outcome.bad_samples),
        refused=sum(t["refused"] for t in counted),
        diverged=sum(t["diverged"] for t in counted),
        bottleneck=bottleneck(plan, loads_of(plan, by_worker, {})),
        prompt=result.get("prompt"),
        sample=result.get("sample"),
    )


def _fed(feeder: str, counted: Collection[Mapping[str, Any]]) -> int:
    return sum(stats["fed"].get(feeder, 0) for stats in counted)


def write_report(report: Report, folder: Path) -> None:
    """Write report.json, whole or not at all. Raises OSError."""
    partial = folder / ".report.json.partial"
    partial.write_text(to_json(report), encoding="utf-8")
    partial.replace(folder / "report.json")


def _uncompressed(workers: int, model_bytes: int, steps: int) -> int:
    """fp32 SSGD, every step: each worker pushes to, and gets from, the owners of what it does not own itself."""
    return 2 * model_bytes * (workers - 1) * steps // workers


def _staleness(counted: Collection[Mapping[str, Any]]) -> Staleness:
    counts: Counter[int] = Counter()
    for stats in counted:
        counts.update(_counts(stats))
    total = counts.total()
    if not total:
        return Staleness(mean=0.0, p95=0.0, max=0, counts={})
    seen = 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= 0.95 * total:
            by_value = {str(v): counts[v] for v in sorted(counts)}
            return Staleness(mean=_mean(counts), p95=float(value), max=max(counts), counts=by_value)
    raise AssertionError("a share of a whole is below the whole")


def _worker(name: str, stats: Mapping[str, Any], region: str) -> WorkerReport:
    counts = _counts(stats)
    return WorkerReport(
        id=name,
        region=region,
        steps=stats["steps"],
        samples=stats["samples"],
        compute_s=stats["compute_s"],
        sync_wait_s=stats["sync_wait_s"],
        feed_wait_s=stats["feed_wait_s"],
        bytes_sent=stats["bytes_sent"],
        bytes_received=stats["bytes_received"],
        bytes_inside=stats["bytes_inside"],
        receiving_bytes=stats["receiving_bytes"],
        receiving_s=stats["receiving_s"],
        staleness_mean=_mean(counts),
        staleness_max=max(counts, default=0),
        state_bytes=stats["state_bytes"],
        peak_memory_bytes=stats["peak_memory_bytes"],
    )


def _counts(stats: Mapping[str, Any]) -> Counter[int]:
    return Counter({int(value): count for value, count in stats["staleness"].items()})


def _mean(counts: Counter[int]) -> float:
    total = counts.total()
    return sum(value * count for value, count in counts.items()) / total if total else 0.0
