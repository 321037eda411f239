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


class Comparison:
    """The results of a contest."""

    def __init__(self, contest: Experiment, reports: Sequence[Sequence[Report]]) -> None:
        self.contest = contest
        self.results = [
            Result(candidate, tuple(found), tuple(read_history(Path(report.folder)) for report in found))
            for candidate, found in zip(contest.candidates, reports, strict=True)
        ]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows, for people. Over several seeds: the mean, and half of what lies between lowest and highest."""
        target = self.contest.target_loss
        header = ["plan", f"s to loss {target:g}"] if target is not None else ["plan"]
        header += [
            "val loss",
            "train loss",
            "tokens" if self._tokens() else "samples",
            "seconds",
            "utilisation",
            "MB sent",
        ]
        header += ["compression", "staleness mean/p95/max", "s lost to stragglers"]
        return header, [self._row(result) for result in self.results]

    def _tokens(self) -> bool:
        return any(report.tokens for result in self.results for report in result.reports)

    def _row(self, result: Result) -> list[str]:
        target = self.contest.target_loss
        times = [course.time_to(target) for course in result.courses] if target is not None else []
        staleness = [report.staleness for report in result.reports]
        stale = "/".join(
            (
                f"{statistics.fmean(s.mean for s in staleness):.2f}",
                f"{statistics.fmean(s.p95 for s in staleness):.0f}",
                str(max(s.max for s in staleness)),
            )
        )
        return [
            result.name,
            *([_spread(times, ".1f")] if target is not None else []),
            _over(result, lambda r: r.val_loss, ".4f"),
            _over(result, lambda r: r.train_loss, ".4f"),
            _over(result, lambda r: r.tokens or r.samples, ",.0f"),
            _over(result, lambda r: r.wall_s, ",.1f"),
            _over(result, lambda r: r.utilisation, ".1%"),
            _over(result, lambda r: r.bytes.sent / 1e6, ",.2f"),
            _over(result, compression, ",.1f") + "x",
            stale,
            _over(result, straggler_s, ",.1f"),
        ]

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
    """How many times fewer bytes than fp32 SGD at every step; None where nothing was sent."""
    return report.bytes.uncompressed / report.bytes.sent if report.bytes.sent else None


def _over(result: Result, value: Callable[[Report], float | None], form: str) -> str:
    return _spread([value(report) for report in result.reports], form)


def _spread(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = format(statistics.fmean(known), form)
    return mean if len(values) == 1 else f"{mean} ±{format((max(known) - min(known)) / 2, form)}"
