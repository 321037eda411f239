"""A folder of predictions: parts that are whole or not there, and what they are of, so that one can go on with them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from roadtrain.data.part_formats import FORMATS, Outputs, Part
from roadtrain.errors import RunFailed, UsageError

MANIFEST = "predict.json"
PART_BYTES = 64 << 20
"""About so large is a part where nobody says how many rows it has."""
OTHERS = {
    "input": "another input, or an older state of it",
    "rows": "an input of another length",
    "model": "another model, or an older state of it",
}
SCRAP = ".part"
"""The file that becomes the next part."""


class Manifest(NamedTuple):
    """What the parts of one folder are: of the `rows` of which `input`, by which `model`, in which `format`, and
    `shard_size` rows in each."""

    input: dict[str, Any]
    model: dict[str, Any]
    rows: int
    format: str
    shard_size: int

    def check(self, before: dict[str, Any], folder: Path) -> None:
        """Raises UsageError where `folder` holds predictions of anything else."""
        for name, value in json.loads(json.dumps(self._asdict())).items():
            if before.get(name) != value:
                what = OTHERS.get(name) or f"--{name.replace('_', '-')} {before.get(name)}"
                raise UsageError(f"{folder} holds predictions of {what}", "choose another --out")


class PartFolder:
    """The parts in `folder`: those that an earlier command has left, and those that are added. `begin` says of what they are."""

    def __init__(self, folder: Path) -> None:
        """Raises UsageError where the folder holds anything that is not to be touched."""
        self._folder = folder
        self._before = _read(folder)
        self._manifest: Manifest | None = None
        self._part: Part | None = None
        self._file: BinaryIO | None = None
        self._in_part = 0
        self.written = 0
        """Rows in whole parts."""
        self.parts = 0
        """Parts that are whole."""

    def before(self, name: str) -> int | None:
        """`rows` or `shard_size` of the parts that are there; None where there are none."""
        found = self._before.get(name)
        return found if isinstance(found, int) and found > 0 else None

    def begin(self, manifest: Manifest) -> None:
        """Go on with what is there of `manifest`. Raises UsageError where it is something else, RunFailed where it cannot be
        written."""
        if self._before:
            manifest.check(self._before, self._folder)
        self._manifest = manifest
        while self.written < manifest.rows and self._path(self.parts).exists():
            self._count()
        if not self._before:
            text = json.dumps(manifest._asdict(), indent=1) + "\n"
            with self._writing():
                self._replace(self._open_scrap(text.encode()), self._folder / MANIFEST)

    @property
    def next_row(self) -> int:
        """The first that was not added."""
        return self.written + self._in_part

    def end_of_part(self, row: int) -> int:
        """Where the part of this row ends."""
        size = self._given.shard_size
        return min(self._given.rows, (row // size + 1) * size)

    def add(self, outputs: Outputs, count: int) -> None:
        """The outputs of the next rows, which are of one part. Raises UsageError and DataFailed as `Part.add`, RunFailed when the
        disk does not take them."""
        with self._writing():
            if self._part is None or self._file is None:
                size = self.end_of_part(self.written) - self.written
                self._file = self._open_scrap()
                self._part = FORMATS[self._given.format](self._file, size)
            self._part.add(outputs)
            self._in_part += count
            if self.written + self._in_part == self.end_of_part(self.written):
                self._part.end()
                self._replace(self._file, self._path(self.parts))
                self._part, self._file, self._in_part = None, None, 0
                self._count()

    def close(self) -> None:
        """What is not whole is gone."""
        if self._file is not None:
            self._file.close()
        (self._folder / SCRAP).unlink(missing_ok=True)

    # --------------------------------------------------------------------------------------------------------------

    @property
    def _given(self) -> Manifest:
        assert self._manifest is not None, "it has begun"
        return self._manifest

    def _path(self, number: int) -> Path:
        digits = max(5, len(str(self._given.rows // self._given.shard_size)))
        return self._folder / f"part-{number:0{digits}}.{self._given.format}"

    def _count(self) -> None:
        self.written = self.end_of_part(self.written)
        self.parts += 1

    def _open_scrap(self, content: bytes = b"") -> BinaryIO:
        file = (self._folder / SCRAP).open("wb")
        file.write(content)
        return file

    def _replace(self, file: BinaryIO, path: Path) -> None:
        """What was written appears under its name: all of it, also after a power cut."""
        with file:
            file.flush()
            os.fsync(file.fileno())
        (self._folder / SCRAP).rename(path)
        handle = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _writing(self) -> Writing:
        return Writing(self._folder)


class Writing:
    """Around what writes into a folder: what the disk does not take is told in one line."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            hint = "what is whole stays; the same command goes on"
            raise RunFailed(f"cannot write to {self._folder}: {error.strerror}", hint) from error


def _read(folder: Path) -> dict[str, Any]:
    """What the folder's manifest says; empty where there are no parts."""
    file = folder / MANIFEST
    if (folder / "plan.toml").exists():
        raise UsageError(f"{folder} is the folder of a run", "choose another --out")
    if not any(folder.glob("part-*")):
        return {}
    if not file.exists():
        raise UsageError(f"{folder} holds parts of something else: it has no {MANIFEST}", "choose another --out")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read: {error}", "choose another --out") from None
    if not isinstance(found, dict):
        raise UsageError(f"{file} is not what predict writes", "choose another --out")
    return found
