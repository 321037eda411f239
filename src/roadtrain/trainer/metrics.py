"""What one worker of a job says of its training now and then: a line of metrics, and since when the loss is no finite number."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from roadtrain.session.control import Control
from roadtrain.session.stats import WorkerStats

NO_FIGURES: Mapping[str, float] = {}


class Metrics:
    """The lines of one worker. The loss of every step stays on its device until a line is due."""

    def __init__(self, control: Control, stats: WorkerStats, tokens_per_sample: int, device: torch.device) -> None:
        self._control, self._stats, self._tokens = control, stats, tokens_per_sample
        self._loss = torch.tensor(float("nan"))
        self._since = torch.zeros((), dtype=torch.int64, device=device)
        self._said = 0

    def computed(self, step: int, loss: Tensor) -> None:
        """Step number `step` (from 1) had this loss."""
        self._loss = loss
        # Of the steps in a row whose loss is no finite number, the first. Numbers in products travel with the kernel: nothing
        # waits for the device.
        first = self._since + (self._since == 0) * step
        self._since = first * loss.isfinite().logical_not().to(first.device)

    def line(self, step: int, sent_bytes: int, figures: Mapping[str, float] = NO_FIGURES) -> None:
        """A line of the last step. The only copy from the device to the host in a training loop."""
        loss = float(self._loss)
        since = step if math.isfinite(loss) else int(self._since)
        if self._said < since < step:  # the step that was the first such one has a line of its own
            self._say(since, loss, sent_bytes, NO_FIGURES)
        self._said = step
        self._stats.loss = loss
        self._say(step, loss, sent_bytes, figures)

    def _say(self, step: int, loss: float, sent_bytes: int, figures: Mapping[str, float]) -> None:
        done = self._stats.figures() | {"tokens": self._stats.samples * self._tokens, "bytes_sent": sent_bytes}
        self._control.log({"step": step, "loss": loss, **figures, **done})
