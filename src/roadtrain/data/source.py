"""What makes batches of samples, and what becomes of samples that cannot be made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, cast

import numpy
import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from roadtrain.batches.work import BadSample, Made, Work
from roadtrain.data.draws import draw_from, kept, mixed

TASK = "task"
"""The source of a job: its task's training samples."""


class Source(Protocol):
    """Makes batches, on the CPU."""

    def make(self, indices: Sequence[int], draws: int) -> Any:
        """The batch of these samples. Random draws in it follow from `draws` and the samples alone."""
        ...


class Fewer(NamedTuple):
    """What a source makes of samples of which only the first `samples` are there: a stream ends with them. `batch` None: none."""

    batch: Any
    samples: int


class Batches(Protocol):
    """What a task has."""

    def batch(self, indices: Tensor) -> Any:
        """The samples of int64 `indices` [n]."""
        ...


class TaskSource:
    """The samples of a job's task."""

    def __init__(self, task: Batches) -> None:
        self._task = task

    def make(self, indices: Sequence[int], draws: int) -> Any:
        draw_from(draws)
        return self._task.batch(torch.tensor(indices, dtype=torch.int64))


class DatasetSource:
    """A dataset with a length: what random draws a sample makes follows from itself, whatever batch it is in."""

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any]) -> None:
        self._dataset, self._collate = dataset, collate
        self._several = getattr(dataset, "__getitems__", None)
        self._draws_none = _is_plain(dataset)

    def make(self, indices: Sequence[int], draws: int) -> Any:
        if callable(self._several):  # it fetches them together, as DataLoader lets it
            draw_from(mixed(draws, indices[0]))
            samples: Any = self._several(list(indices))
        elif self._draws_none:
            samples = [self._dataset[index] for index in indices]
        else:
            samples = [self._sample(index, draws) for index in indices]
        draw_from(mixed(draws, indices[0], 1))
        return self._collate(samples)

    def _sample(self, index: int, draws: int) -> Any:
        draw_from(mixed(draws, index))
        return self._dataset[index]


def _is_plain(dataset: Any) -> bool:
    """Whether it only looks samples up, as far as is known."""
    if type(dataset) is Subset:
        return _is_plain(cast("Subset[Any]", dataset).dataset)
    return type(dataset) in (TensorDataset, Tensor)


def work_of(source: str, indices: Tensor | Sequence[int], draws: int) -> Work:
    """The batch of the samples `indices` (int64 [n])."""
    return Work(source, numpy.asarray(indices, dtype="<i8").tobytes(), draws)


def make(source: Source, work: Work) -> Made:
    """What comes of `work`. Samples that raise are left out of the batch and named; where none by itself does, but all together,
    that is raised."""
    indices: list[int] = numpy.frombuffer(work.indices, dtype="<i8").tolist()
    with kept():
        try:
            found = source.make(indices, work.draws)
            return Made(found.batch, found.samples) if isinstance(found, Fewer) else Made(found, len(indices))
        except MemoryError:
            raise
        except Exception:
            bad = [found for index in indices for found in _look_at(source, index, work.draws)]
            if not bad:
                raise
        named = {each.index for each in bad}
        good = [index for index in indices if index not in named]
        return Made(source.make(good, work.draws) if good else None, len(good), tuple(bad))


def _look_at(source: Source, index: int, draws: int) -> list[BadSample]:
    try:
        source.make([index], draws)
    except MemoryError:
        raise
    except Exception as error:
        words = str(error).strip().splitlines()
        return [BadSample(index, f"{type(error).__name__}: {words[0]}" if words else type(error).__name__)]
    return []
