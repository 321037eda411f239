"""Metrics of validation that keep a state, as torchmetrics' do: an object with `reset`, `update`, `compute`.

A state is taken of every chunk of samples by itself, and the states of all chunks are put together in their order. That is exact
where each state says how (`_reductions`, as torchmetrics names it): sums, maxima and minima, and lists that are concatenated.
Of any other metric every worker updates one with all samples.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from roadtrain.errors import PeerError, UsageError

Outputs = Callable[[nn.Module, Any], Sequence[Any]]
"""What `update` of a metric is given of a batch, such as (predictions, targets)."""
Totals = dict[str, tuple[float, float]]
"""By metric: a sum, and of how many."""
REDUCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "dim_zero_sum": lambda stacked: stacked.sum(0),
    "dim_zero_max": lambda stacked: stacked.amax(0),
    "dim_zero_min": lambda stacked: stacked.amin(0),
}
CONCATENATED = "dim_zero_cat"


class StatefulMetric(Protocol):
    """What torchmetrics calls a Metric."""

    def reset(self) -> None: ...

    def update(self, *given: Any) -> None: ...

    def compute(self) -> Any: ...


def keeps_state(metric: object) -> bool:
    """Whether `metric` is such an object, and not a function."""
    return all(callable(getattr(metric, name, None)) for name in ("reset", "update", "compute"))


def pair(model: nn.Module, batch: Any) -> Sequence[Any]:
    """The outputs of the model for the first of a batch's two parts, and the second. Raises UsageError for other batches."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise UsageError(
            "metrics want predictions and targets, and a batch is no pair",
            "give outputs=, a function of (model, batch) that returns what the metrics' update takes",
        )
    return model(batch[0]), batch[1]


class StateMetric:
    """One metric. `mergeable`: states of several can be put together exactly."""

    def __init__(self, name: str, metric: object, device: torch.device) -> None:
        """The person's own object stays as it is."""
        self.name, self._device = name, device
        self._metric: Any = copy.deepcopy(metric)
        if isinstance(self._metric, nn.Module):
            self._metric = self._metric.to(device)
        reductions: Mapping[str, Any] = getattr(metric, "_reductions", {})
        self._how = {state: getattr(reduce, "__name__", "") for state, reduce in reductions.items()}
        self.mergeable = bool(self._how) and all(how in REDUCTIONS or how == CONCATENATED for how in self._how.values())

    def reset(self) -> None:
        """Begin anew."""
        self._metric.reset()

    def update(self, given: Sequence[Any]) -> None:
        """Take in a batch."""
        self._metric.update(*given)

    def state(self) -> dict[str, Tensor]:
        """What it knows since `reset`, by the names of its states; what is concatenated and empty is left out."""
        found: dict[str, Tensor] = {}
        for name, how in self._how.items():
            value = getattr(self._metric, name)
            if how == CONCATENATED:
                value = [value] if isinstance(value, Tensor) else [torch.atleast_1d(each) for each in value]
                if not value:
                    continue
                value = torch.cat(value)
            found[name] = value.detach().to("cpu", copy=True)
        return found

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Know what these know together, in this order. Raises PeerError where they are not this metric's."""
        self._metric.reset()
        for name, how in self._how.items():
            parts = [state[name] for state in states if name in state]
            if not parts:
                continue
            try:
                setattr(self._metric, name, self._together(how, getattr(self._metric, name), parts))
            except (RuntimeError, TypeError) as error:
                raise PeerError(f"the state {name} of the metric {self.name} does not fit: {error}") from error
        if hasattr(self._metric, "_update_count"):
            self._metric._update_count = len(states)  # or it warns that it knows nothing

    def _together(self, how: str, default: Any, parts: list[Tensor]) -> Any:
        """What takes the place of `default`. Raises TypeError where the parts are of another shape or kind."""
        if how == CONCATENATED:
            joined = torch.cat(parts).to(self._device)
            return [joined] if isinstance(default, list) else joined
        if any(part.shape != default.shape or part.dtype != default.dtype for part in parts):
            raise TypeError("it is of another shape or kind")
        return REDUCTIONS[how](torch.stack(parts)).to(default.device)

    def figures(self) -> dict[str, float]:
        """What it computes: one number, or several by name. Raises UsageError for anything else."""
        found = self._metric.compute()
        if not isinstance(found, Mapping):
            return {self.name: _number(self.name, found)}
        return {f"{self.name}_{name}": _number(self.name, value) for name, value in found.items()}


def add(totals: Totals, name: str, found: Any, samples: int) -> None:
    """Add what a function found of a batch of so many samples: their mean, or a sum and of how many."""
    amount, count = found if isinstance(found, tuple | list) else (found, None)
    total = float(torch.as_tensor(amount).detach().double() * (samples if count is None else 1))
    before, of = totals.get(name, (0.0, 0.0))
    totals[name] = before + total, of + (samples if count is None else float(count))


def quotients(totals: Totals) -> dict[str, float]:
    """Sums by how many they are of."""
    return {name: total / of if of else math.nan for name, (total, of) in totals.items()}


def _number(name: str, value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise UsageError(
            f"the metric {name} computes {value.numel()} numbers, and a figure is one", "have it average them"
        )
    return float(value)
