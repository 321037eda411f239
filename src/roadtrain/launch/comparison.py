"""What a comparison found: the results of each plan over its seeds, as a table and as plain data."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from roadtrain.launch.history import History, read_history
from roadtrain.launch.run_request import RunRequest
from roadtrain.report import Report


@dataclass(frozen=True, slots=True)
class Variant:
    """One plan that takes part. `orders`: one for each seed."""

    name: str
    sync: str
    codec: str
    orders: tuple[RunRequest, ...]


@dataclass(frozen=True, slots=True)
class Experiment:
    """What is compared. `command`: as the person gave it. `target_loss`: a training loss that plans race to."""

    target: str
    command: str
    candidates: tuple[Variant, ...]
    target_loss: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """One plan's reports and courses, by seed."""

    candidate: Variant
    reports: tuple[Report, ...]
    courses: tuple[History, ...]

    @property
    def name(self) -> str:
        return self.candidate.name

    @property
    def failed(self) -> bool:
        """Whether a run of it did, as one that diverged."""
        return any(report.status == "failed" for report in self.reports)

    @property
    def staleness(self) -> dict[int, int]:
        """Contributions by their staleness, over all seeds."""
        counts: Counter[int] = Counter()
        for report in self.reports:
            counts.update({int(value): count for value, count in report.staleness.counts.items()})
        return dict(sorted(counts.items()))


def straggler_s(report: Report) -> float:
    """Seconds that workers waited for slower ones: what they waited, up to what the slowest computed longer."""
    slowest = max((worker.compute_s for worker in report.workers), default=0.0)
    return sum(min(worker.sync_wait_s, slowest - worker.compute_s) for worker in report.workers)


FIRST_TO_GO = (
    "s lost to stragglers",
    "staleness mean/p95/max",
    "tokens",
    "samples",
    "train loss",
    "computing",
    "accuracy",
    "MB sent",
)
"""Columns that a narrow terminal has no room for, the least important first."""


class Comparison:
    """The results of a contest."""

    def __init__(self, contest: Experiment, reports: Sequence[Sequence[Report]]) -> None:
        self.contest = contest
        self.results = [
            Result(candidate, tuple(found), tuple(read_history(Path(report.folder)) for report in found))
            for candidate, found in zip(contest.candidates, reports, strict=True)
        ]

    def table(self, left_out: int = 0) -> tuple[list[str], list[list[str]]]:
        """Header and rows, for people, without so many of `FIRST_TO_GO`. Over several seeds: the mean, and half of what lies
        between lowest and highest."""
        columns = {name: cells for name, cells in self._columns().items() if name not in FIRST_TO_GO[:left_out]}
        header = [name for name, cells in columns.items() if name != "accuracy" or any(cell != "-" for cell in cells)]
        rows = [[columns[name][number] for name in header] for number in range(len(self.results))]
        return header, rows

    def _columns(self) -> dict[str, list[str]]:
        """Each column's cells by its name; "-" where nothing is known."""
        target = self.contest.target_loss
        columns: dict[str, list[str]] = {
            "plan": [f"{result.name} (failed)" if result.failed else result.name for result in self.results]
        }
        if target is not None:
            columns[f"s to loss {target:g}"] = [
                _spread([course.time_to(target) for course in result.courses], ".1f") for result in self.results
            ]
        amount = "tokens" if any(r.tokens for result in self.results for r in result.reports) else "samples"
        wanted: dict[str, tuple[Callable[[Report], float | None], str]] = {
            "val loss": (lambda r: r.val_loss, ".4f"),
            "accuracy": (lambda r: r.metrics.get("accuracy"), ".1%"),
            "train loss": (lambda r: r.train_loss, ".4f"),
            amount: (lambda r: r.tokens or r.samples, ",.0f"),
            "training s": (lambda r: r.training_s, ",.1f"),
            "computing": (lambda r: r.utilisation, ".1%"),
            "MB sent": (lambda r: r.bytes.sent / 1e6, ",.2f"),
            "x fewer": (compression, ",.1f"),
        }
        columns |= {name: [_over(result, *how) for result in self.results] for name, how in wanted.items()}
        columns["staleness mean/p95/max"] = [_stale(result) for result in self.results]
        columns["s lost to stragglers"] = [_over(result, straggler_s, ",.1f") for result in self.results]
        return columns

    def as_dict(self) -> dict[str, Any]:
        """Everything, for programs."""
        return {
            "target": self.contest.target,
            "command": self.contest.command,
            "target_loss": self.contest.target_loss,
            "plans": [self._plan(result) for result in self.results],
        }

    def _plan(self, result: Result) -> dict[str, Any]:
        target = self.contest.target_loss
        return {
            "name": result.name,
            "sync": result.candidate.sync,
            "codec": result.candidate.codec,
            "runs": [
                {
                    "seed": order.plan.job.seed,
                    "time_to_target_s": course.time_to(target) if target is not None else None,
                    "compression": compression(report),
                    "straggler_s": straggler_s(report),
                    "report": asdict(report),
                }
                for order, report, course in zip(result.candidate.orders, result.reports, result.courses, strict=True)
            ],
        }


def compression(report: Report) -> float | None:
    """How many times fewer bytes than fp32 SGD at every step (below 1: more); None where nothing was sent."""
    return report.bytes.uncompressed / report.bytes.sent if report.bytes.sent else None


def _stale(result: Result) -> str:
    found = [report.staleness for report in result.reports]
    mean, p95 = statistics.fmean(s.mean for s in found), statistics.fmean(s.p95 for s in found)
    return f"{mean:.2f}/{p95:.0f}/{max(s.max for s in found)}"


def _over(result: Result, value: Callable[[Report], float | None], form: str) -> str:
    return _spread([value(report) for report in result.reports], form)


def _spread(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = format(statistics.fmean(known), form)
    return mean if len(values) == 1 else f"{mean} ±{format((max(known) - min(known)) / 2, form)}"
