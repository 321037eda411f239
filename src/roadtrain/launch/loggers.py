"""TensorBoard, Weights & Biases, trackio and MLflow, each as three calls. A package is imported when it is logged to."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

PROJECT = "roadtrain"
"""Of the run, where a logger sorts runs by projects or experiments."""


class Logger(Protocol):
    """Where figures go. All is called on one thread."""

    def begin(self, run: str, folder: Path, config: Mapping[str, Any]) -> None:
        """The run `run` has left its first figures; its folder, and its plan by section."""
        ...

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Figures of a step."""
        ...

    def end(self) -> None:
        """No more will come."""
        ...


class TensorBoard:
    """Event files in the run's folder: `tensorboard --logdir FOLDER/tensorboard`."""

    def begin(self, run: str, folder: Path, config: Mapping[str, Any]) -> None:
        self._writer: Any = import_module("tensorboard.summary").Writer(str(folder / "tensorboard"))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def end(self) -> None:
        self._writer.close()


class Wandb:
    """Under the account, or into the folder, that its own variables name (WANDB_MODE=offline)."""

    def begin(self, run: str, folder: Path, config: Mapping[str, Any]) -> None:
        wandb: Any = import_module("wandb")
        self._run = wandb.init(project=PROJECT, name=run, dir=str(folder), config=dict(config))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log(dict(figures), step=step)

    def end(self) -> None:
        self._run.finish()


class Trackio:
    """Into its own store. What it prints is no part of a report on stdout."""

    def begin(self, run: str, folder: Path, config: Mapping[str, Any]) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self._run: Any = import_module("trackio").init(project=PROJECT, name=run, config=dict(config))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log(dict(figures), step=step)

    def end(self) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self._run.finish()


class MLflow:
    """To where its own variables lead (MLFLOW_TRACKING_URI)."""

    def begin(self, run: str, folder: Path, config: Mapping[str, Any]) -> None:
        self._mlflow: Any = import_module("mlflow")
        self._mlflow.set_experiment(PROJECT)
        self._mlflow.start_run(run_name=run)
        flat = {f"{section}.{name}": value for section, table in config.items() for name, value in table.items()}
        self._mlflow.log_params(flat)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(figures), step=step)

    def end(self) -> None:
        self._mlflow.end_run()


ADAPTERS: Mapping[str, Callable[[], Logger]] = {
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": Wandb,
    "mlflow": MLflow,
}
