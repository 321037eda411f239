"""What is told of a training as it goes on (`Callback`), and may end it (`EarlyStopping`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from roadtrain.errors import UsageError, nearest

if TYPE_CHECKING:
    from roadtrain.trainer.trainer import Trainer

Mode = Literal["min", "max"]


class Callback:
    """Is told what happens in `fit`, at every worker; its methods do nothing until they are written. Any of them may set
    `trainer.stopping`: then no further step begins at this worker, and `fit` comes to its end."""

    wants_validation = False
    """Whether it is of no use where `fit` does not validate."""

    def on_fit_start(self, trainer: Trainer) -> None:
        """`fit` begins, or goes on in a resumed run."""

    def on_fit_end(self, trainer: Trainer, figures: Mapping[str, float]) -> None:
        """All hold the same model; `figures` are those that `fit` returns."""

    def on_epoch_start(self, trainer: Trainer, epoch: int) -> None:
        """Epoch number `epoch`, from 0, begins, or goes on."""

    def on_epoch_end(self, trainer: Trainer, epoch: int) -> None:
        """Its last step is over; validation follows."""

    def on_step(self, trainer: Trainer, step: int, loss: float) -> None:
        """Step number `step` is over, and is one that is logged (`log_every`)."""

    def on_validate_end(self, trainer: Trainer, figures: Mapping[str, float]) -> None:
        """`fit` has validated. Between two agreements of local steps each worker has figures of its own."""

    def on_checkpoint(self, trainer: Trainer, step: int) -> None:
        """The run's checkpoint of this step is written."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values that checkpoints keep, and a worker is given that comes later."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""


class Monitor:
    """The figure of validation that is looked at: `val_loss`, or another name that the run's metrics have. `mode`: whether less
    is better, or more."""

    def __init__(self, name: str, mode: Mode) -> None:
        if mode not in ("min", "max"):
            raise UsageError(f"mode is {mode!r}", "min where less of it is better, max where more is")
        self.name, self._sign = name, 1 if mode == "min" else -1

    def of(self, figures: Mapping[str, float]) -> float:
        """Its value. Raises UsageError where there is none of this name."""
        found = figures.get(self.name.removeprefix("val_"))
        if found is None:
            raise UsageError(f"validation has no figure {self.name}", nearest(self.name, [f"val_{n}" for n in figures]))
        return found

    def cost(self, value: float) -> float:
        """Less is better; what is no number is worst."""
        return math.inf if math.isnan(value) else self._sign * value


class EarlyStopping(Callback):
    """Ends the training when the figure `monitor` has not become better by more than `min_delta` in `patience` validations in a
    row, at all workers after the same epoch."""

    wants_validation = True

    def __init__(self, monitor: str, *, patience: int = 3, min_delta: float = 0.0, mode: Mode = "min") -> None:
        """Raises UsageError for a patience below 1, and a difference below 0."""
        if patience < 1:
            raise UsageError(f"patience is {patience}", "it counts validations, from 1")
        if not min_delta >= 0:
            raise UsageError(f"min_delta is {min_delta}", "give a difference of at least 0")
        self._monitor = Monitor(monitor, mode)
        self._patience, self._min_delta = patience, min_delta
        self._best = math.inf
        self._since = 0

    def on_validate_end(self, trainer: Trainer, figures: Mapping[str, float]) -> None:
        """All workers look at the same figures: none goes on when others stop."""
        cost = self._monitor.cost(self._monitor.of(trainer.same_everywhere(figures)))
        if cost < self._best - self._min_delta or (self._best == math.inf and cost < math.inf):
            self._best, self._since = cost, 0
        else:
            self._since += 1
        if self._since >= self._patience and not trainer.stopping:
            trainer.stopping = True
            trainer.sync.event("stopped_early", step=trainer.step, monitor=self._monitor.name)

    def state_dict(self) -> dict[str, Any]:
        """The best so far, and validations since."""
        return {"best": None if self._best == math.inf else self._best, "since": self._since}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._best = math.inf if state["best"] is None else float(state["best"])
        self._since = int(state["since"])
