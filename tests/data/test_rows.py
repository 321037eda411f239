"""Rows of a file are read as they are, and what has none is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch

from roadtrain.data.rows import ArrayRows, DatasetRows, open_rows
from roadtrain.errors import UsageError


@pytest.mark.parametrize("order", [numpy.ascontiguousarray, numpy.asfortranarray])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "|u1", ">i2", "|b1"])
def test_rows_are_those_of_the_array(tmp_path: Path, order: Callable[..., numpy.ndarray], dtype: str) -> None:
    array = order(numpy.arange(24).reshape(6, 2, 2) % 3, dtype=dtype)
    numpy.save(tmp_path / "x.npy", array)
    rows = ArrayRows(tmp_path / "x.npy")
    assert len(rows) == 6
    found = rows.batch([4, 1])
    assert torch.equal(found, torch.from_numpy(array[[4, 1]].astype(array.dtype.newbyteorder("="))))


def test_what_has_no_rows_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "x.npy"
    for array in (numpy.zeros((0, 3)), numpy.array(1.0)):
        numpy.save(wrong, array)
        with pytest.raises(UsageError, match="no rows"):
            ArrayRows(wrong)
    numpy.save(wrong, numpy.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="file of numbers"):
        ArrayRows(wrong)
    numpy.save(wrong, numpy.array(["text"]))
    with pytest.raises(UsageError, match="no tensors of"):
        ArrayRows(wrong)
    numpy.save(wrong, numpy.zeros((9, 3)))
    wrong.write_bytes(wrong.read_bytes()[:-8])
    with pytest.raises(UsageError, match="file of numbers"):
        ArrayRows(wrong)


class Job:
    def inputs(self, path: Path) -> list[tuple[torch.Tensor, int]]:
        return [(torch.full((2,), float(word)), len(word)) for word in path.read_text().split()]


def test_a_job_may_read_other_files(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("7 88 9")
    rows = open_rows(path, Job())
    assert isinstance(rows, DatasetRows)
    numbers, lengths = rows.batch([1, 2])
    assert numbers.tolist() == [[88, 88], [9, 9]]
    assert lengths.tolist() == [2, 1]
    path.write_text("")
    with pytest.raises(UsageError, match="no samples"):
        open_rows(path, Job())
    with pytest.raises(UsageError, match="has no inputs"):
        open_rows(path, object())
