"""Parts are whole or not there; one goes on with what is there, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch

from roadtrain.data.part_folder import MANIFEST, Manifest, PartFolder
from roadtrain.data.part_formats import ONLY
from roadtrain.errors import RunFailed, UsageError

GIVEN = Manifest({"path": "x.npy", "shape": [10]}, {"weights": "abc", "settings": {"widths": (1, 2)}}, 10, "npy", 4)


def begun(folder: Path, manifest: Manifest = GIVEN) -> PartFolder:
    parts = PartFolder(folder)
    parts.begin(manifest)
    return parts


def add(parts: PartFolder, count: int) -> None:
    first = parts.next_row
    parts.add({ONLY: torch.arange(first, first + count)}, count)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_parts_appear_whole_and_are_gone_on_with(tmp_path: Path) -> None:
    parts = begun(tmp_path)
    assert [parts.end_of_part(row) for row in (0, 3, 4, 9)] == [4, 4, 8, 10]
    add(parts, 4)
    add(parts, 3)
    assert (parts.written, parts.parts, parts.next_row) == (4, 1, 7)
    assert "part-00001.npy" not in names(tmp_path)
    again = begun(tmp_path)  # the first was killed
    assert (again.written, again.parts, again.next_row) == (4, 1, 4)
    assert (again.before("rows"), again.before("shard_size")) == (10, 4)
    for count in (1, 3, 2):
        add(again, count)
    again.close()
    assert names(tmp_path) == ["part-00000.npy", "part-00001.npy", "part-00002.npy", MANIFEST]
    found = [numpy.load(tmp_path / name).tolist() for name in names(tmp_path)[:3]]
    assert found == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert begun(tmp_path).written == 10


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"input": {"path": "y.npy", "shape": [10]}}, "another input"),
        ({"model": {"weights": "abd", "settings": {"widths": (1, 2)}}}, "another model"),
        ({"rows": 11}, "another length"),
        ({"format": "jsonl"}, "--format npy"),
        ({"shard_size": 5}, "--shard-size 4"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, changed: dict[str, object], said: str) -> None:
    add(begun(tmp_path), 4)
    before = (tmp_path / MANIFEST).read_bytes()
    with pytest.raises(UsageError, match=said):
        begun(tmp_path, GIVEN._replace(**changed))
    assert (tmp_path / MANIFEST).read_bytes() == before


def test_where_there_is_no_part_anything_may_begin(tmp_path: Path) -> None:
    parts = begun(tmp_path)
    add(parts, 3)
    parts.close()
    assert names(tmp_path) == [MANIFEST]
    assert begun(tmp_path, GIVEN._replace(format="jsonl")).written == 0


def test_what_is_no_folder_of_predictions_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "part-00000.npy").write_bytes(b"somebody's")
    with pytest.raises(UsageError, match=f"no {MANIFEST}"):
        PartFolder(tmp_path)
    (tmp_path / MANIFEST).write_text("[1, 2]")
    with pytest.raises(UsageError, match="not what predict writes"):
        PartFolder(tmp_path)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        PartFolder(tmp_path)
    (tmp_path / "plan.toml").write_text("")
    with pytest.raises(UsageError, match="folder of a run"):
        PartFolder(tmp_path)


def test_a_disk_that_takes_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = begun(tmp_path)
    add(parts, 4)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunFailed, match="No space left"):
        add(parts, 4)
    parts.close()
    assert names(tmp_path) == ["part-00000.npy", MANIFEST]
