"""The course of one run in few numbers, however long it is: what its charts show."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

POINTS = 600
"""Most points of a chart. When there are more, every other one goes, and those that follow come half as often."""
RECENT = 120
"""Lines of metrics that are kept of each worker, for what it did in the last minutes."""
BEGIN_S = 0.25
TOTALS = ("samples", "tokens", "compute_s", "sync_wait_s", "feed_wait_s", "bytes_sent")
"""Of lines of metrics: what a worker's process has added up since it began."""
LAST = ("time_s", "step", "loss", *TOTALS)
COLUMNS = ("time_s", "step", "loss", "val_loss", *TOTALS)


@dataclass(slots=True)
class Lane:
    """One worker: its newest line, its totals over all of its processes, and its last lines with those totals."""

    newest: dict[str, Any] = field(default_factory=dict[str, Any])
    before: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TOTALS, 0.0))
    totals: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TOTALS, 0.0))
    recent: deque[tuple[float | None, ...]] = field(
        default_factory=lambda: deque[tuple[float | None, ...]](maxlen=RECENT)
    )

    def take(self, line: Mapping[str, Any]) -> None:
        """A line, whose totals begin anew with a new process."""
        for name in TOTALS:
            said = line.get(name)
            if said is None:
                continue
            if said < (self.newest.get(name) or 0.0):
                self.before[name] = self.totals[name]
            self.totals[name] = self.before[name] + said
        self.newest |= {name: value for name, value in line.items() if value is not None}
        self.recent.append((line["time_s"], line["step"], line.get("loss"), *self.totals.values()))

    def columns(self) -> dict[str, list[float | None]]:
        """Its last lines by column; totals are over all of its processes."""
        return {name: [row[place] for row in self.recent] for place, name in enumerate(LAST)}


class Series:
    """Of one run. Each line of any worker's metrics goes in once."""

    def __init__(self, lines: Iterable[Mapping[str, Any]] = ()) -> None:
        self.lanes: dict[str, Lane] = {}
        self._rows: list[tuple[float | None, ...]] = []
        self._spacing_s, self._due_s = BEGIN_S, 0.0
        self._newest_s = self._before_s = 0.0
        self._losses: dict[str, float] = {}
        self._val_loss: float | None = None
        for line in lines:
            self.take(line)

    def take(self, line: Mapping[str, Any]) -> None:
        """A line of metrics, with `worker` and `time_s`."""
        said_s = line["time_s"] or 0.0
        if said_s < self._newest_s:  # a coordinator that was started again begins at 0
            self._before_s += self._newest_s
        self._newest_s = said_s
        worker, time_s = line["worker"], self._before_s + said_s
        self.lanes.setdefault(worker, Lane()).take({**line, "time_s": time_s})
        if line.get("loss") is not None:
            self._losses[worker] = line["loss"]
        if line.get("val_loss") is not None:
            self._val_loss = line["val_loss"]
        if time_s >= self._due_s:
            self._add(time_s)

    def _add(self, time_s: float) -> None:
        lanes = self.lanes.values()
        loss = sum(self._losses.values()) / len(self._losses) if self._losses else None
        step = min((lane.newest.get("step", 0) for lane in lanes if lane.newest["worker"] in self._losses), default=0)
        totals = (round(sum(lane.totals[name] for lane in lanes), 4) for name in TOTALS)
        self._rows.append((time_s, step, loss, self._val_loss, *totals))
        self._losses.clear()
        self._val_loss = None
        if len(self._rows) > POINTS:
            del self._rows[1::2]
            self._spacing_s = (time_s - (self._rows[0][0] or 0.0)) / len(self._rows)
        self._due_s = time_s + self._spacing_s

    def columns(self) -> dict[str, list[float | None]]:
        """`COLUMNS` by name. loss: mean of those workers that said one since the point before; step: of the slowest of these;
        `TOTALS`: over all workers, seconds or bytes."""
        rows = self._rows
        return {name: [row[place] for row in rows] for place, name in enumerate(COLUMNS)}
