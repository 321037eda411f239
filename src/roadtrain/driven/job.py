"""A driver's model as a job, which layouts spread over workers: they take its optimizer from the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from torch import Tensor, nn

from roadtrain.driven.names import thing_of
from roadtrain.driven.order import SOURCE, example_of, model_of, order_of
from roadtrain.plan import Plan, add_folder
from roadtrain.trainer.task import Batch


def make(plan: Plan, *, folder: Annotated[str, "where the driver has written what is trained"] = "") -> DrivenTask:
    """The task of the driver."""
    return DrivenTask(Path(folder).absolute())


class DrivenTask:
    """Its samples are the driver's, whose batches are taken as they come."""

    tokens_per_sample = 0
    fed_as = SOURCE

    def __init__(self, folder: Path) -> None:
        """Raises UsageError for what cannot be built here."""
        add_folder(folder)
        self._folder, self._order = folder, order_of(folder)
        self._loss = thing_of(self._order.loss)

    def build(self) -> nn.Module:
        return model_of(self._folder, self._order)

    def __len__(self) -> int:
        return self._order.batches * self._order.size

    def batch(self, indices: Tensor) -> Batch:
        """A sample, to show what batches are like."""
        return example_of(self._folder, self._order)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        found = self._loss(model, batch)
        return found[0] if isinstance(found, tuple) else found

    def validate(self, model: nn.Module) -> dict[str, float]:
        """The driver does, with its own data."""
        return {}

    def sample(self, model: nn.Module) -> None:
        """There is nothing to look at."""
