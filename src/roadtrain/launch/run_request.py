"""What is to be run, worked out and checked before anything starts: the plan, the recipe's module, the run's folder."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from roadtrain.errors import UsageError
from roadtrain.plan import Plan, dumps


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One run. `module`: the recipe's module. `resume`: go on from the folder's last checkpoint."""

    run: str
    plan: Plan
    module: str
    folder: Path
    resume: bool

    def briefing(self) -> dict[str, object]:
        """What every worker is told."""
        return {
            "briefing": {
                "run": self.run,
                "plan": dumps(self.plan),
                "recipe": self.module,
                "folder": str(self.folder),
                "resume": self.resume,
                "begun": self._begun(),
            }
        }

    def _begun(self) -> list[int]:
        """Steps and version of the state that the run begins with, for a region that comes back when there are others."""
        if not self.resume:
            return [0, 0]
        saved = json.loads((max((self.folder / "checkpoint").glob("step-*")) / "run.json").read_text())
        return [min(saved["steps"].values(), default=0), saved["version"]]


def new_run_id() -> str:
    """A name for a run that sorts by time."""
    return time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)


def open_folder(folder: Path, plan: Plan, *, resume: bool) -> None:
    """Make the run's folder and write its plan. Raises UsageError when that cannot be done, or a run is in it already."""
    if not resume and (folder / "report.json").exists():
        raise UsageError(f"{folder} holds a finished run already", "choose another --out, or go on with --resume")
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        (folder / "plan.toml").write_text(dumps(plan))
    except OSError as error:
        raise UsageError(f"cannot write to {folder} ({error.strerror})", "choose another --out") from error


def threads_per_worker(plan: Plan, environment: Mapping[str, str]) -> int:
    """Cores of this machine shared among its workers; the person's OMP_NUM_THREADS goes first."""
    if environment.get("OMP_NUM_THREADS"):
        return 0
    return max(1, len(os.sched_getaffinity(0)) // plan.place.workers) if hasattr(os, "sched_getaffinity") else 1


def check_resumable(folder: Path) -> None:
    """Raises UsageError when `folder` is not the folder of a run with a checkpoint."""
    if not (folder / "plan.toml").is_file():
        raise UsageError(f"{folder} is not the folder of a run", "give the --out of a run that was stopped")
    if not any((folder / "checkpoint").glob("step-*")):
        raise UsageError(f"{folder} has no checkpoint", "nothing to resume")
