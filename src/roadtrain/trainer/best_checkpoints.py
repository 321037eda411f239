"""The models that were best in validation, kept in the run's folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from roadtrain.checkpoint.export import export_as
from roadtrain.checkpoint.folder import MODEL
from roadtrain.errors import UsageError
from roadtrain.trainer.callbacks import Callback, Mode, Monitor

if TYPE_CHECKING:
    from roadtrain.trainer.trainer import Trainer

BEST = "best"


class BestCheckpoints(Callback):
    """Keeps the `k` models whose figure `monitor` was best, as `best/STEP-VALUE/model.safetensors` in the run's folder. The first
    worker writes, of its own model; what is there says which are the best, also in a resumed run."""

    wants_validation = True

    def __init__(self, monitor: str, k: int = 3, *, mode: Mode = "min") -> None:
        """Raises UsageError for less than one."""
        if k < 1:
            raise UsageError(f"k is {k}", "keep one or more")
        self._monitor, self._k = Monitor(monitor, mode), k

    def on_fit_start(self, trainer: Trainer) -> None:
        """Raises UsageError where there is no run's folder."""
        if trainer.sync.folder is None:
            raise UsageError(
                "a script that plain Python has started has no run folder to keep the best models in",
                "start it with roadtrain run",
            )

    def on_validate_end(self, trainer: Trainer, figures: Mapping[str, float]) -> None:
        """Keep the model, if it is one of the best. A disk that is full ends no training."""
        value, run = self._monitor.of(figures), trainer.sync.folder
        if run is None or not trainer.sync.writes or value != value:
            return
        try:
            self._keep(trainer, value, run / BEST)
        except (OSError, SafetensorError) as error:
            trainer.sync.event("not_saved", step=trainer.step, reason=str(error))

    def _keep(self, trainer: Trainer, value: float, folder: Path) -> None:
        name = f"{trainer.step:08d}-{value:.6g}"
        ranked = sorted([*self._kept(folder), name], key=self._rank)
        if name not in ranked[: self._k] or (folder / name).exists():
            return
        partial = folder / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        export_as(trainer.validated, partial / MODEL)
        partial.rename(folder / name)
        for worse in ranked[self._k :]:
            shutil.rmtree(folder / worse, ignore_errors=True)

    def _kept(self, folder: Path) -> list[str]:
        return [each.name for each in folder.glob("*-*") if each.name[0].isdigit()] if folder.is_dir() else []

    def _rank(self, name: str) -> tuple[float, str]:
        """Of two that are as good, the earlier one is the better."""
        return self._monitor.cost(float(name.partition("-")[2])), name
