"""The course of a run, read back from its `metrics.jsonl`: loss against time and bytes, and what each worker did when."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SMOOTHED = 3
"""A point of a curve is the mean over the last so many lines of every worker."""


@dataclass(frozen=True, slots=True)
class Point:
    """`time_s`: seconds since training began. `sent_bytes`: over all workers so far. `loss`: mean over workers."""

    time_s: float
    sent_bytes: int
    loss: float


@dataclass(frozen=True, slots=True)
class Span:
    """What one worker did between two lines of its metrics: seconds of computing, then of waiting; bytes it sent."""

    begin_s: float
    end_s: float
    compute_s: float
    wait_s: float
    sent_bytes: int


@dataclass(frozen=True, slots=True)
class History:
    """One run's curve, and the spans of each worker by name."""

    points: tuple[Point, ...]
    spans: dict[str, tuple[Span, ...]]

    def time_to(self, loss: float) -> float | None:
        """Seconds until the smoothed loss was at most `loss`; None if it never was."""
        return next((point.time_s for point in self.points if point.loss <= loss), None)


def read_history(folder: Path) -> History:
    """The course of the run in `folder`."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = sorted(map(json.loads, lines), key=lambda record: record["time_s"])
    if not records:
        return History((), {})
    begin = min(record["time_s"] - record["compute_s"] - record["sync_wait_s"] for record in _first(records))
    return History(tuple(_points(records, begin)), _spans(records, begin))


def _first(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first line of every worker."""
    first: dict[str, dict[str, Any]] = {}
    for record in records:
        first.setdefault(record["worker"], record)
    return list(first.values())


def _points(records: list[dict[str, Any]], begin: float) -> Iterable[Point]:
    workers = {record["worker"] for record in records}
    recent: deque[float] = deque(maxlen=SMOOTHED * len(workers))
    sent: dict[str, int] = {}
    for record in records:
        sent[record["worker"]] = record["bytes_sent"]
        if record["loss"] is None:
            continue
        recent.append(record["loss"])
        if len(recent) >= len(workers):
            yield Point(record["time_s"] - begin, sum(sent.values()), sum(recent) / len(recent))


def _spans(records: list[dict[str, Any]], begin: float) -> dict[str, tuple[Span, ...]]:
    spans: dict[str, list[Span]] = defaultdict(list)
    before: dict[str, dict[str, Any]] = {}
    for record in records:
        name = record["worker"]
        last = before.get(name, {"time_s": begin, "compute_s": 0.0, "sync_wait_s": 0.0, "bytes_sent": 0})
        spans[name].append(
            Span(
                begin_s=last["time_s"] - begin,
                end_s=record["time_s"] - begin,
                compute_s=record["compute_s"] - last["compute_s"],
                wait_s=record["sync_wait_s"] - last["sync_wait_s"],
                sent_bytes=record["bytes_sent"] - last["bytes_sent"],
            )
        )
        before[name] = record
    return {name: tuple(found) for name, found in sorted(spans.items(), key=lambda item: int(item[0][1:]))}
