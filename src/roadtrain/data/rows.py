"""What is predicted on: the rows of a .npy or .jsonl file, pictures in a folder, or what a job's own `inputs(path)` gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy
import torch
from torch.utils.data import default_collate

from roadtrain.data.file_rows import JsonlRows, PictureRows
from roadtrain.data.source import DatasetSource
from roadtrain.errors import UsageError


class Rows(Protocol):
    """Samples by their number."""

    def __len__(self) -> int: ...

    def batch(self, numbers: Sequence[int]) -> Any:
        """These samples, collated, on the CPU."""
        ...


class ArrayRows:
    """The first axis of an array in a .npy file. No more of it is read than what is asked for."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError where it is no array of numbers, or damaged."""
        try:
            self._array = numpy.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise UsageError(f"{path} is no .npy file of numbers: {error}", "write it with numpy.save") from None
        if not self._array.ndim or not len(self._array):
            raise UsageError(f"{path} has no rows", "its first axis is that of the samples")
        self._dtype = self._array.dtype.newbyteorder("=")
        try:
            torch.from_numpy(numpy.empty(0, self._dtype))
        except TypeError:
            raise UsageError(f"{path} holds {self._array.dtype}, which torch has no tensors of") from None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""
        return self._array.shape

    @property
    def dtype(self) -> str:
        """Of its numbers."""
        return str(self._array.dtype)

    def __len__(self) -> int:
        return len(self._array)

    def batch(self, numbers: Sequence[int]) -> Any:
        """See `Rows`."""
        return torch.from_numpy(self._array[numpy.asarray(numbers)].astype(self._dtype, copy=False))


class DatasetRows:
    """A map-style dataset."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._source = DatasetSource(dataset, default_collate)

    def __len__(self) -> int:
        return len(self._dataset)

    def batch(self, numbers: Sequence[int]) -> Any:
        """See `Rows`."""
        return self._source.make(numbers, 0)


def is_array(path: Path) -> bool:
    """Whether `ArrayRows` reads it."""
    return path.suffix == ".npy"


def open_rows(path: Path, task: object) -> Rows:
    """A task that has `inputs` reads all but .npy files. Raises UsageError for what nobody reads, and whatever that raises."""
    if is_array(path):
        return ArrayRows(path)
    inputs = cast("Callable[[Path], Any] | None", getattr(task, "inputs", None))
    if inputs is None:
        if path.is_dir():
            return PictureRows(path)
        if path.suffix == ".jsonl":
            return JsonlRows(path)
        raise UsageError(
            f"{path} is no .npy or .jsonl file or folder of pictures, and the job has no inputs(path) that reads it",
            "convert it, or give the job's task a method that returns a dataset with a length",
        )
    rows = DatasetRows(inputs(path))
    if not len(rows):
        raise UsageError(f"the job's inputs({path}) has no samples")
    return rows
