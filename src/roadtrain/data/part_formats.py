"""Files of outputs, each in one of the formats that `--format` names. Rows are written as they come; none is kept."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any, BinaryIO, Protocol

import numpy
import torch
from torch import Tensor

from roadtrain.codec.packet import raw_bytes
from roadtrain.errors import DataFailed, UsageError
from roadtrain.report import finite

ONLY = "output"
"""The name of a model's output, where it has one alone."""
WITHOUT_NUMPY = tuple(
    dtype
    for name, dtype in vars(torch).items()
    if name.startswith(("bfloat16", "float8")) and isinstance(dtype, torch.dtype)
)
"""What numpy has no dtype for: written as float32, which holds all of their values."""
SAFETENSORS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}
GROUP_BYTES = 1 << 24
"""About so much of a Parquet file is one row group."""

Outputs = Mapping[str, Tensor]
"""By name, each [rows, ...], contiguous on the CPU."""


class Part(Protocol):
    """One file that is written."""

    def add(self, outputs: Outputs) -> None:
        """The next rows. Raises UsageError for what the format does not take, DataFailed for what does not fit those before."""
        ...

    def end(self) -> None:
        """All rows were added; the file stays open."""
        ...


class NpyPart:
    """One array [rows, ...]."""

    def __init__(self, file: BinaryIO, rows: int) -> None:
        self._file, self._rows = file, rows
        self._like = Alike("npy")

    def add(self, outputs: Outputs) -> None:
        """See `Part`."""
        if list(outputs) != [ONLY]:
            hint = "--format safetensors, jsonl or parquet keeps them by name"
            raise UsageError(f"the model has outputs by name ({', '.join(outputs)}), and a .npy file holds one", hint)
        array = _array(outputs[ONLY])
        if self._like.is_first(outputs):
            shape = (self._rows, *array.shape[1:])
            head = {"descr": numpy.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": shape}
            numpy.lib.format.write_array_header_1_0(self._file, head)
        self._file.write(array.tobytes())

    def end(self) -> None:
        """See `Part`."""


class SafetensorsPart:
    """Tensors [rows, ...] by name. Their lengths are known with the first rows, so each has its place in the file then."""

    def __init__(self, file: BinaryIO, rows: int) -> None:
        self._file, self._rows = file, rows
        self._like = Alike("safetensors")
        self._next: dict[str, int] = {}

    def add(self, outputs: Outputs) -> None:
        """See `Part`."""
        if self._like.is_first(outputs):
            self._begin(outputs)
        for name, tensor in outputs.items():
            self._file.seek(self._next[name])
            self._next[name] += self._file.write(raw_bytes(_flat(tensor)) if tensor.numel() else b"")

    def _begin(self, outputs: Outputs) -> None:
        head: dict[str, Any] = {}
        end = 0
        for name, tensor in outputs.items():
            dtype = SAFETENSORS.get(tensor.dtype)
            if dtype is None:
                raise UsageError(f"safetensors has no {tensor.dtype}, as the model's {name} is")
            shape = (self._rows, *tensor.shape[1:])
            begin, end = end, end + math.prod(shape) * tensor.dtype.itemsize
            head[name] = {"dtype": dtype, "shape": shape, "data_offsets": (begin, end)}
        text = json.dumps(head).encode()
        text += b" " * (-len(text) % 8)
        self._file.write(len(text).to_bytes(8, "little") + text)
        self._next = {name: 8 + len(text) + each["data_offsets"][0] for name, each in head.items()}

    def end(self) -> None:
        """See `Part`."""


class JsonlPart:
    """A line for each row: outputs by name. What is not finite is null."""

    def __init__(self, file: BinaryIO, rows: int) -> None:
        self._file = file

    def add(self, outputs: Outputs) -> None:
        """See `Part`."""
        for name, tensor in outputs.items():
            if tensor.is_complex():
                raise UsageError(f"the model's {name} is {tensor.dtype}, which JSON has no numbers for", "--format npy")
        lists = [tensor.tolist() for tensor in outputs.values()]
        for row in zip(*lists, strict=True):
            line = json.dumps(finite(dict(zip(outputs, row, strict=True))), allow_nan=False)
            self._file.write(line.encode() + b"\n")

    def end(self) -> None:
        """See `Part`."""


class ParquetPart:
    """A column for each output, rows of more than one number as lists of fixed length."""

    def __init__(self, file: BinaryIO, rows: int) -> None:
        """Raises UsageError where pyarrow is not installed."""
        self._arrow, self._parquet = parquet()
        self._file = file
        self._like = Alike("parquet")
        self._writer: Any = None
        self._waiting: list[Any] = []

    def add(self, outputs: Outputs) -> None:
        """See `Part`."""
        self._like.is_first(outputs)
        table = self._arrow.table({name: self._column(name, tensor) for name, tensor in outputs.items()})
        if self._writer is None:
            self._writer = self._parquet.ParquetWriter(self._file, table.schema)
        self._waiting.append(table)
        if sum(each.nbytes for each in self._waiting) >= GROUP_BYTES:
            self._write()

    def _column(self, name: str, tensor: Tensor) -> Any:
        if tensor.is_complex():
            raise UsageError(f"the model's {name} is {tensor.dtype}, which Parquet has no numbers for", "--format npy")
        column = self._arrow.array(_array(tensor).reshape(-1))
        for size in reversed(tensor.shape[1:]):
            column = self._arrow.FixedSizeListArray.from_arrays(column, size)
        return column

    def _write(self) -> None:
        if self._waiting:
            self._writer.write_table(self._arrow.concat_tables(self._waiting))
            self._waiting.clear()

    def end(self) -> None:
        """See `Part`."""
        self._write()
        self._writer.close()


class Alike:
    """What the rows of one file have in common."""

    def __init__(self, format: str) -> None:
        self._format = format
        self._form: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}

    def is_first(self, outputs: Outputs) -> bool:
        """Whether these are the first rows. Raises DataFailed where they differ from those before in more than their number."""
        form = {name: (tensor.dtype, tuple(tensor.shape[1:])) for name, tensor in outputs.items()}
        if not self._form:
            self._form = form
            return True
        if form != self._form:
            was, now = _words(self._form), _words(form)
            hint = "--format jsonl takes rows that differ"
            raise DataFailed(f"the model's outputs change from row to row, from {was} to {now}", hint)
        return False


def _words(form: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> str:
    return ", ".join(
        f"{name} {str(dtype).removeprefix('torch.')} {list(shape)}" for name, (dtype, shape) in form.items()
    )


def _flat(tensor: Tensor) -> Tensor:
    return tensor.as_strided((tensor.numel(),), (1,))  # a single number may have any stride


def _array(tensor: Tensor) -> numpy.ndarray:
    return (tensor.float() if tensor.dtype in WITHOUT_NUMPY else tensor).numpy()


def parquet() -> tuple[Any, Any]:
    """The packages pyarrow and pyarrow.parquet. Raises UsageError where they are not installed."""
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError("--format parquet wants the package pyarrow", "pip install pyarrow") from None


FORMATS: dict[str, type[NpyPart] | type[SafetensorsPart] | type[JsonlPart] | type[ParquetPart]] = {
    "npy": NpyPart,
    "jsonl": JsonlPart,
    "safetensors": SafetensorsPart,
    "parquet": ParquetPart,
}
"""By the ending of their files."""
