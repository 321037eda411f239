"""Rows of a file are read as they are, and what has none is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

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


def test_lines_of_json_are_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"x": [1.5, 2], "n": 3, "words": "a"}\n\n{"x": [0, 1e2], "n": 4, "words": "b"}\n{"x": [1.0, 1], "n": 5, "words": ""}'
    )
    rows = open_rows(path, object())
    assert len(rows) == 3
    found = rows.batch([2, 0])
    assert (found["x"].dtype, found["n"].dtype) == (torch.float32, torch.int64)
    assert (found["x"].tolist(), found["n"].tolist(), found["words"]) == ([[1.0, 1.0], [1.5, 2.0]], [5, 3], ["", "a"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]\n[1]\n", "int64 [1] and int64 [2]"),
        ("[1]\n[1.5]\n", "float32 [1] and int64 [1]"),
        ('{"a": 1}\n{"b": 1}\n', "other names than a"),
        ("[1]\n{broken\n", "no line of JSON"),
        ("[null]\n[null]\n", "no numbers in"),
    ],
)
def test_lines_that_make_no_batch_are_told(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    rows = open_rows(tmp_path / "x.jsonl", object())
    with pytest.raises(ValueError) as refused:  # noqa: PT011  (what it says is looked at)
        rows.batch([0, 1])
    assert said in str(refused.value)


def test_pictures_of_a_folder_are_rows_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    shades = {"b.png": 10, "a.png": 20, "below/c.jpg": 30}
    for name, shade in shades.items():
        Image.new("RGB", (5, 4), (shade, shade, shade)).save(tmp_path / name, quality=95)
    (tmp_path / "notes.txt").write_text("no picture")
    rows = open_rows(tmp_path, object())
    assert len(rows) == 3
    found = rows.batch([0, 1, 2])
    assert (found.dtype, tuple(found.shape)) == (torch.uint8, (3, 3, 4, 5))
    assert found[:, 0, 0, 0].tolist() == [20, 10, 30]
    Image.new("L", (6, 4)).save(tmp_path / "z.png")
    with pytest.raises(ValueError, match=r"a\.png and z\.png are 5x4 and 6x4"):
        open_rows(tmp_path, object()).batch([0, 3])
    with pytest.raises(UsageError, match="no pictures"):
        (tmp_path / "empty").mkdir()
        open_rows(tmp_path / "empty", object())
