"""A checkpoint's folder: sealed last, and every damage to it is found before a run goes on from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from roadtrain.checkpoint.folder import (
    damage,
    local_folder,
    meta_of,
    newest_whole,
    of_step,
    seal,
    steps_in,
    superseded,
    superseded_parts,
)
from roadtrain.errors import UsageError


def write(folder: Path, step: int, **meta: object) -> Path:
    """A sealed folder with two files."""
    final = of_step(folder, step)
    partial = folder / f".{final.name}.partial"
    (partial / "tensors").mkdir(parents=True)
    (partial / "tensors" / "__0_0.distcp").write_bytes(bytes(range(256)) * 20)
    (partial / "tensors" / ".metadata").write_bytes(b"what is where")
    seal(partial, final, {"version": step, **meta})
    return final


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def one_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def removed(file: Path) -> None:
    file.unlink()


def a_list(file: Path) -> None:
    file.write_text("[1, 2]")


def unsealed(file: Path) -> None:
    file.write_text(json.dumps({"version": 1}))


def test_a_whole_one(tmp_path: Path) -> None:
    folder = write(tmp_path, 4)
    assert damage(folder) == ""
    assert meta_of(folder) == {"version": 4}
    assert newest_whole(tmp_path, 2) == (4, [])


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        *[(f"tensors/{name}", how) for name in ("__0_0.distcp", ".metadata") for how in (cut_short, one_bit, removed)],
        ("tensors/__0_0.distcp", emptied),
        *[("run.json", how) for how in (cut_short, emptied, removed, a_list, unsealed)],
    ],
)
def test_every_damage_is_found_and_the_one_before_taken(
    tmp_path: Path, name: str, harm: Callable[[Path], None]
) -> None:
    write(tmp_path, 4)
    harm(write(tmp_path, 8) / name)
    step, wrong = newest_whole(tmp_path, 2)
    assert step == 4
    assert len(wrong) == 1
    assert wrong[0].startswith("checkpoint step-00000008 is damaged: ")
    assert Path(name).name in wrong[0]


@pytest.mark.parametrize("harm", [cut_short, removed])
def test_a_workers_own_part_belongs_to_it(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    for step in (4, 8):
        for region in (0, 1):
            write(local_folder(tmp_path, region), step)
        write(tmp_path, step, parts=[0, 1])
    harm(of_step(local_folder(tmp_path, 1), 8) / "tensors" / "__0_0.distcp")
    assert newest_whole(tmp_path, 1) == (8, []), "one worker alone does not read it"
    step, wrong = newest_whole(tmp_path, 2)
    assert (step, len(wrong)) == (4, 1)
    assert "local-1" in wrong[0]


def test_where_no_part_is_there_it_is_what_all_share(tmp_path: Path) -> None:
    for step in (4, 8):
        write(tmp_path, step, parts=[0])
    step, wrong = newest_whole(tmp_path, 1)
    assert step == 8
    assert wrong == ["checkpoint step-00000008 lacks a worker's own part: local-0: run.json is missing"]


def test_a_slow_workers_last_whole_checkpoint_is_kept(tmp_path: Path) -> None:
    """The first worker is at 40, the other has written its parts of 5 and 10: those are not superseded by what waits for it."""
    for step in (5, 10):
        write(local_folder(tmp_path, 1), step)
    for step in range(5, 45, 5):
        write(tmp_path, step, parts=[1])
    assert superseded(tmp_path, keep=2) == [20, 25, 30]


def test_a_fast_worker_keeps_its_parts_of_what_is_there_and_of_some_to_come(tmp_path: Path) -> None:
    for step in (10, 20):
        write(tmp_path, step, parts=[1])
    for step in (5, 10, 15, 20, 25, 30, 35):
        write(local_folder(tmp_path, 1), step)
    assert superseded_parts(tmp_path, 1, ahead=2) == [5, 15, 25]


def test_none_is_whole(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no checkpoint"):
        newest_whole(tmp_path, 1)
    cut_short(write(tmp_path, 4) / "tensors" / "__0_0.distcp")
    with pytest.raises(UsageError, match=r"tensors/__0_0.distcp has 2,560 bytes of 5,120, and there is none before it"):
        newest_whole(tmp_path, 1)


def test_one_that_was_not_sealed_does_not_count(tmp_path: Path) -> None:
    write(tmp_path, 4).rename(tmp_path / ".step-00000004.partial")
    (tmp_path / "step-mine").mkdir()
    assert steps_in(tmp_path) == []
