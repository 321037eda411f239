"""What is to be run, worked out and checked before anything starts: the plan, what was chosen of it, the run's folder."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from roadtrain.checkpoint.folder import meta_of, newest_whole, of_step
from roadtrain.errors import UsageError
from roadtrain.launch.cores import cores
from roadtrain.membership.messages import RunSpec
from roadtrain.plan import (
    AUTO,
    Plan,
    SyncSpec,
    Tables,
    Target,
    check,
    check_known,
    complete,
    dumps,
    dumps_tables,
    keys_of,
    parse,
    refuse_unread,
)

OF_GRADIENTS = ("ssgd", "asgd", "ssp")
"""Strategies in which no worker trains by itself."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One run. `resume`: the step of the folder's checkpoint to go on from, if any.

    `told`: of a run that goes on, what its workers were told that it began with: the checkpoint may be elsewhere, or gone.
    `chosen`: what TOML, the environment and flags said. Of a script's plan no more is known before its workers have heard
    what it says itself; in `plan` the defaults stand for that. `kept`: what of it only the folder of a run that goes on says.
    `ledger`: lines of its ledger that were there when it began.
    """

    run: str
    plan: Plan
    folder: Path
    resume: int | None
    chosen: Tables = field(default_factory=dict[str, Mapping[str, object]])
    told: tuple[int, int] | None = None
    kept: frozenset[tuple[str, str]] = frozenset()
    ledger: int = 0

    @classmethod
    def of(cls, chosen: Tables, folder: Path | None) -> RunRequest:
        """A run of what was chosen, not checked; without a folder it gets a new one in runs/. Raises UsageError."""
        run = new_run_id()
        return cls(run, complete(chosen), in_full(folder or Path("runs") / run), None, chosen)

    @classmethod
    def of_spec(cls, spec: RunSpec) -> RunRequest:
        """The run that workers were told of."""
        chosen = spec.chosen or {}
        return cls(
            spec.run, parse(spec.plan), Path(spec.folder), spec.resume, {**chosen}, spec.begun, spec.kept, spec.ledger
        )

    @property
    def is_script(self) -> bool:
        """Whether a script is run, which says itself what it trains."""
        target = self.plan.job.target
        return bool(target) and Target.parse(target).is_script

    def changed(self, section: str, **values: object) -> RunRequest:
        """With other values in one section, as if they had been chosen."""
        plan = replace(self.plan, **{section: replace(getattr(self.plan, section), **values)})
        return replace(self, plan=plan, chosen={**self.chosen, section: {**self.chosen.get(section, {}), **values}})

    def check(self, *, elsewhere: bool = False) -> None:
        """Raises UsageError for the first thing that cannot be run; of a script, as far as its plan is known. `elsewhere`: it is
        for a fleet."""
        if self.plan.layout.regions == AUTO:
            self._check_auto(elsewhere=elsewhere)
        if self.is_script:
            check_known(self.plan)
            refuse_unread(keys_of({}, self.chosen), written_out=False)
        else:
            check(self.plan)

    def _check_auto(self, *, elsewhere: bool) -> None:
        if self.is_script:
            raise UsageError("--regions auto is of layouts, which are for recipes and jobs", "leave it out")
        if not elsewhere:
            raise UsageError(
                "--regions auto goes by what the machines of a fleet measure, and this runs on none",
                "add --on TICKET, or give the number of regions",
            )

    def plan_text(self) -> str:
        """What `plan.toml` holds: the plan, or of a script what was chosen."""
        return dumps_tables(self.chosen) if self.is_script else dumps(self.plan)

    def write_plan(self) -> None:
        """Write `plan.toml`."""
        (self.folder / "plan.toml").write_text(self.plan_text(), encoding="utf-8")

    def spec(self) -> RunSpec:
        """What every worker is told."""
        chosen = {name: dict(values) for name, values in self.chosen.items()} if self.is_script else None
        return RunSpec(
            run=self.run,
            plan=dumps(self.plan),
            folder=str(self.folder),
            resume=self.resume,
            begun=self._begun(),
            chosen=chosen,
            kept=self.kept,
            ledger=self.ledger,
        )

    def _begun(self) -> tuple[int, int]:
        """Steps and version of the state that the run begins with, for a region that comes back when there are others."""
        if self.told is not None:
            return self.told
        if self.resume is None:
            return 0, 0
        saved = meta_of(of_step(self.checkpoints, self.resume))
        agreed = saved["agreed"]
        return min(saved["steps"].values(), default=0) if agreed is None else agreed, saved["version"]

    def begins_at(self) -> int:
        """The step that a job begins with: of its checkpoint, or of the last agreement before it, where its strategy cannot take
        up what each worker had trained since."""
        if self.resume is None or self.told is not None:
            return 0 if self.told is None else self.told[0]
        agreed = meta_of(of_step(self.checkpoints, self.resume)).get("agreed")
        spec = SyncSpec.parse(self.plan.sync.strategy)
        keeps = self.is_script or spec.name not in OF_GRADIENTS
        return self.resume if agreed is None or keeps else agreed

    @property
    def checkpoints(self) -> Path:
        """Where the run's checkpoints are."""
        return self.folder / "checkpoint"

    def from_newest(self) -> tuple[RunRequest, list[str]]:
        """Going on from the newest checkpoint that is whole, and what is wrong with newer ones. Raises UsageError for none."""
        step, wrong = newest_whole(self.checkpoints, self.plan.place.workers)
        return replace(self, resume=step), wrong


def in_full(folder: Path) -> Path:
    """`folder` from the root on, without steps back: a name that stays right in another folder, and can be read."""
    return folder.resolve() if ".." in folder.parts else folder.absolute()


def new_run_id() -> str:
    """A name for a run that sorts by time."""
    return time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)


def threads_per_worker(plan: Plan, environment: Mapping[str, str]) -> int:
    """Cores of this machine shared among its workers; the person's OMP_NUM_THREADS goes first."""
    if environment.get("OMP_NUM_THREADS"):
        return 0
    return max(1, cores() // plan.place.workers)
