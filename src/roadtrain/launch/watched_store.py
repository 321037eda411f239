"""The coordinator's memory in the driver: of what workers report, it has a person told what should not wait for the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from roadtrain.fleet.store import Store

RATE_APART = "sync.register the schedule, or make it the same in every worker"
MODEL_APART = "one of them is kept; sync.register what steps beside the optimizer, such as a GradScaler"


class WatchedStore(Store):
    """`warnings`: where what a person should be told is added. `figures` is given every line of metrics."""

    def __init__(
        self, database: str, folder: Path, warnings: list[str], figures: Callable[[dict[str, Any]], None]
    ) -> None:
        super().__init__(database, folder)
        self._warnings, self._figures = warnings, figures
        self._told: set[str] = set()
        self._unsaved: set[str] = set()

    def event(self, record: dict[str, Any]) -> None:
        super().event(record)
        match record["event"]:
            case "refused":
                self._refused(record)
            case "left_behind":
                was, now = record.get("optimizer"), record.get("now")
                self._warnings.append(f"the state and settings of {was} are left behind: {now} begins with its own")
            case "apart":
                self._apart(record)
            case "not_saved":
                self._not_saved(record)
            case "checkpoint":
                self._unsaved.discard(str(record.get("worker")))
            case _:
                pass

    def metric(self, record: dict[str, Any]) -> None:
        super().metric(record)
        self._figures(record)

    def _refused(self, record: dict[str, Any]) -> None:
        """Once of parameters, and once of buffers; every owner says it of its own fragments."""
        what = str(record.get("what"))
        kind = what.partition(" ")[0]
        if kind not in self._told:
            self._told.add(kind)
            kept = "; the model keeps the last mean that was" if kind == "buffer" else ""
            who, step, reason = record.get("of"), record.get("step"), record.get("reason")
            self._warnings.append(f"what {who} contributed at step {step} to {what} was refused: {reason}{kept}")

    def _apart(self, record: dict[str, Any]) -> None:
        """Once of each thing in which workers that step by themselves differ."""
        what, workers = str(record.get("what")), ", ".join(map(str, record.get("workers", ())))
        if what not in self._told:
            self._told.add(what)
            hint = MODEL_APART if what == "model" else RATE_APART
            self._warnings.append(f"{workers} do not have the same {what}: {hint}")

    def _not_saved(self, record: dict[str, Any]) -> None:
        """Once of each worker, until a checkpoint of its is there: what cannot be written now cannot be soon after either."""
        worker = str(record.get("worker"))
        if worker not in self._unsaved:
            self._unsaved.add(worker)
            step, reason = record.get("step"), record.get("reason")
            self._warnings.append(f"{worker} could not write its checkpoint of step {step}: {reason}")
