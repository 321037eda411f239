"""Rows that are predicted on and are no array: lines of a .jsonl file, pictures in a folder, each read when it is asked for."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy
import torch
from torch import Tensor

from roadtrain.errors import UsageError

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
"""Endings of files that are pictures."""


class JsonlRows:
    """A line of JSON for each row: a number, a list of numbers (nested, of one shape), a text, or an object of these by name.

    Lists with a decimal point or an exponent in them become float32, others int64; a column is of one kind and shape.
    """

    def __init__(self, path: Path) -> None:
        """Raises UsageError where it has no lines."""
        self._path = path
        self._begins = array("Q")
        at = 0
        with path.open("rb") as file:
            for line in file:
                if line.strip():
                    self._begins.append(at)
                at += len(line)
        if not self._begins:
            raise UsageError(f"{path} has no rows", "each line is one")

    def __len__(self) -> int:
        return len(self._begins)

    def batch(self, numbers: Sequence[int]) -> Any:
        """See `Rows`. Raises ValueError for lines that are no rows, or do not fit each other."""
        with self._path.open("rb") as file:
            rows = [self._row(file, number) for number in numbers]
        return _column(rows)

    def _row(self, file: Any, number: int) -> Any:
        file.seek(self._begins[number])
        try:
            return json.loads(file.readline())
        except ValueError as error:
            raise ValueError(f"it is no line of JSON: {error}") from None


def _column(rows: list[Any]) -> Any:
    first = rows[0]
    if isinstance(first, Mapping):
        names = list(cast("Mapping[str, Any]", first))
        if any(not isinstance(row, Mapping) or set(row) != set(names) for row in rows):
            raise ValueError(f"the rows have other names than {', '.join(names)}")
        return {name: _column([row[name] for row in rows]) for name in names}
    if isinstance(first, str):
        if not all(isinstance(row, str) for row in rows):
            raise ValueError("texts and numbers are in one column")
        return rows
    found = [_numbers(row) for row in rows]
    if len({(each.dtype, each.shape) for each in found}) > 1:
        forms = " and ".join(sorted({f"{each.dtype} {list(each.shape)}".removeprefix("torch.") for each in found}))
        raise ValueError(f"rows that are computed together are {forms}")
    return torch.stack(found)


def _numbers(row: Any) -> Tensor:
    found = numpy.asarray(row)
    if found.dtype.kind == "b":
        return torch.from_numpy(found)
    if found.dtype.kind not in "if":
        raise ValueError(f"there are no numbers in {json.dumps(row)[:60]}")
    return torch.from_numpy(found.astype(numpy.float32 if found.dtype.kind == "f" else numpy.int64))


class PictureRows:
    """The pictures below a folder, in the order of their names: uint8 [3, height, width] each, red, green, blue."""

    def __init__(self, folder: Path) -> None:
        """Raises UsageError where it has none, and where pillow is not installed."""
        try:
            self._image: Any = import_module("PIL.Image")
        except ImportError:
            raise UsageError("pictures want the package pillow", "pip install pillow") from None
        self._files = pictures_in(folder)

    def __len__(self) -> int:
        return len(self._files)

    def batch(self, numbers: Sequence[int]) -> Any:
        """See `Rows`. Raises what pillow raises, and ValueError for pictures of several sizes."""
        pictures = [self._picture(self._files[number]) for number in numbers]
        for number, picture in zip(numbers, pictures, strict=True):
            if picture.shape != pictures[0].shape:
                one, other = (f"{each.shape[2]}x{each.shape[1]}" for each in (pictures[0], picture))
                names = f"{self._files[numbers[0]].name} and {self._files[number].name}"
                raise ValueError(f"{names} are {one} and {other}: give pictures of one size, or --batch 1")
        return torch.stack(pictures)

    def _picture(self, file: Path) -> Tensor:
        with self._image.open(file) as image:
            return torch.from_numpy(numpy.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def pictures_in(folder: Path) -> list[Path]:
    """In the order of their names. Raises UsageError where there are none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
    if not found:
        raise UsageError(f"there are no pictures in {folder}", f"their names end in {', '.join(sorted(PICTURES))}")
    return found
