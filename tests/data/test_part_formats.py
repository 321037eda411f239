"""What is written is what was added, in every format; what one does not take is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from roadtrain.data.part_formats import FORMATS, ONLY, parquet
from roadtrain.errors import DataFailed, UsageError

HAS_PARQUET = importlib.util.find_spec("pyarrow") is not None
needs_parquet = pytest.mark.skipif(not HAS_PARQUET, reason="pyarrow is not installed")


def write(path: Path, *batches: dict[str, Tensor]) -> Path:
    with path.open("wb") as file:
        part = FORMATS[path.suffix[1:]](file, sum(len(next(iter(batch.values()))) for batch in batches))
        for batch in batches:
            part.add(batch)
        part.end()
    return path


def batches(dtype: torch.dtype = torch.float32) -> tuple[dict[str, Tensor], ...]:
    values = torch.arange(30).reshape(5, 3, 2).to(dtype)
    return tuple({"deep": part, "flat": part[:, 0, 0].contiguous()} for part in values.split(2))


def alone(dtype: torch.dtype) -> tuple[dict[str, Tensor], ...]:
    return tuple({ONLY: batch["deep"]} for batch in batches(dtype))


WHOLE = torch.arange(30).reshape(5, 3, 2)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64]
)
def test_npy(tmp_path: Path, dtype: torch.dtype) -> None:
    found = numpy.load(write(tmp_path / "x.npy", *alone(dtype)))
    wanted = torch.float32 if dtype is torch.bfloat16 else dtype
    assert torch.equal(torch.from_numpy(found), WHOLE.to(wanted))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.bool])
def test_safetensors(tmp_path: Path, dtype: torch.dtype) -> None:
    found = load_file(write(tmp_path / "x.safetensors", *batches(dtype)))
    assert set(found) == {"deep", "flat"}
    assert torch.equal(found["deep"], WHOLE.to(dtype))
    assert torch.equal(found["flat"], WHOLE[:, 0, 0].to(dtype))


def test_jsonl(tmp_path: Path) -> None:
    first, *more = batches()
    first["flat"][1] = float("nan")
    lines = [json.loads(line) for line in write(tmp_path / "x.jsonl", first, *more).read_text().splitlines()]
    assert [line["deep"] for line in lines] == WHOLE.tolist()
    assert [line["flat"] for line in lines] == [0, None, 12, 18, 24]


@needs_parquet
def test_parquet(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", *batches())
    table: Any = parquet()[1].read_table(path)
    assert table.column("deep").to_pylist() == WHOLE.tolist()
    assert table.column("flat").to_pylist() == WHOLE[:, 0, 0].tolist()


@pytest.mark.skipif(HAS_PARQUET, reason="pyarrow is installed")
def test_without_pyarrow_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        write(tmp_path / "x.parquet", *batches())
    assert "pip install pyarrow" in refused.value.line()


def test_rows_of_no_numbers_at_all(tmp_path: Path) -> None:
    nothing = {ONLY: torch.empty(3, 0)}
    assert numpy.load(write(tmp_path / "x.npy", nothing, nothing)).shape == (6, 0)
    assert load_file(write(tmp_path / "x.safetensors", nothing, nothing))[ONLY].shape == (6, 0)


def test_what_a_format_does_not_take(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="deep, flat"):
        write(tmp_path / "x.npy", *batches())
    with pytest.raises(UsageError, match="JSON has no numbers"):
        write(tmp_path / "x.jsonl", *alone(torch.complex64))
    with pytest.raises(UsageError, match="safetensors has no"):
        write(tmp_path / "x.safetensors", *alone(torch.complex128))


@pytest.mark.parametrize("name", ["x.npy", "x.safetensors"])
def test_rows_that_differ_are_for_jsonl(tmp_path: Path, name: str) -> None:
    different = {ONLY: torch.zeros(2, 3)}, {ONLY: torch.zeros(2, 4)}
    with pytest.raises(DataFailed, match=r"from output float32 \[3\] to output float32 \[4\]"):
        write(tmp_path / name, *different)
    lines = write(tmp_path / "x.jsonl", *different).read_text().splitlines()
    assert [len(json.loads(line)[ONLY]) for line in lines] == [3, 3, 4, 4]
