"""Checkpoints as folders: one a step, sealed when all of it is written, looked through before a run goes on from it.

`step-00000400/run.json`, written last, names every file of the folder with its size and CRC-32, so that whoever goes on
knows a damaged one from a whole one before any worker starts. Nothing heavy is imported here.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roadtrain.errors import UsageError

SAME_MODEL = "give the same model settings as the run had"
"""The remedy for a checkpoint that is of another model than the one it is loaded into."""
RUN = "run.json"
MODEL = "model.safetensors"
"""The trained model, in the folder of its run."""
PREFIX = "step-"
AHEAD = 6
"""A worker that is ahead of the first one keeps so many more of its parts: they belong to checkpoints that are to come."""
BLOCK = 1 << 20


def of_step(folder: Path, step: int) -> Path:
    """The checkpoint of `step`."""
    return folder / f"{PREFIX}{step:08d}"


def local_folder(folder: Path, region: int) -> Path:
    """Where the checkpoints of what only worker or region `region` knows are."""
    return folder / f"local-{region}"


def steps_in(folder: Path) -> list[int]:
    """Steps that there are checkpoints of, the oldest first."""
    names = (each.name.removeprefix(PREFIX) for each in folder.glob(f"{PREFIX}*"))
    return sorted(int(name) for name in names if name.isdigit())


def seal(partial: Path, final: Path, meta: Mapping[str, Any]) -> None:
    """All of `partial` is written: note what it is made of, see that the disk has it, and give it its name."""
    files = {str(file.relative_to(partial)): _signature(file) for file in sorted(partial.rglob("*")) if file.is_file()}
    (partial / RUN).write_text(json.dumps({**meta, "files": files}, indent=1), encoding="utf-8")
    for each in (*partial.rglob("*"), partial):
        _to_disk(each)
    replaced = final.with_name(f".{final.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if final.exists():
        final.rename(replaced)  # never half removed under its name
    partial.rename(final)
    _to_disk(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def meta_of(folder: Path) -> dict[str, Any]:
    """What `run.json` says beside the names of files. Raises UsageError when it cannot be read."""
    try:
        meta = json.loads((folder / RUN).read_text(encoding="utf-8"))
        meta.pop("files")
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise UsageError(f"{folder / RUN} cannot be read", "the checkpoint is damaged") from error
    return meta


def damage(folder: Path) -> str:
    """What is wrong with a checkpoint's files; empty when all are as they were written."""
    try:
        files: dict[str, list[int]] = json.loads((folder / RUN).read_text(encoding="utf-8"))["files"]
        for name, wanted in files.items():
            file = folder / name
            size = file.stat().st_size
            if size != wanted[0]:
                return f"{name} has {size:,} bytes of {wanted[0]:,}"
            if _signature(file) != wanted:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).relative_to(folder)} is missing"
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return f"{RUN} cannot be read"
    return ""


def newest_whole(folder: Path, workers: int) -> tuple[int, list[str]]:
    """The step of the newest checkpoint that `workers` workers can go on from, and what is wrong with newer ones.

    Where none has the parts of all workers (they may be on other machines, or were never written), it is the newest in which what
    all share is whole: whoever lacks its part begins with what was agreed on. Raises UsageError when there is none.
    """
    wrong: list[str] = []
    shared: list[int] = []
    for step in reversed(steps_in(folder)):
        name = of_step(folder, step).name
        if found := damage(of_step(folder, step)):
            wrong.append(f"checkpoint {name} is damaged: {found}")
            continue
        found = _parts_damage(folder, step, workers)
        if not found:
            return step, wrong
        shared.append(step)
        wrong.append(f"checkpoint {name} lacks a worker's own part: {found}")
    if shared:
        return shared[0], wrong[:1]
    if wrong:
        raise UsageError(f"{wrong[0]}, and there is none before it that is whole", "start anew with another --out")
    raise UsageError(f"no checkpoint in {folder}", "nothing to resume")


def superseded(folder: Path, keep: int) -> list[int]:
    """Steps of checkpoints that are needed no longer: but for the last `keep` that are whole, and of those of which a worker that
    is behind has not written its part, the first, which it comes to next, and the last `keep`."""
    whole: list[int] = []
    waiting: list[int] = []
    for step in steps_in(folder):
        try:
            parts = meta_of(of_step(folder, step)).get("parts", [])
        except UsageError:  # whoever goes on will say so
            parts = [-1]
        there = all((of_step(local_folder(folder, region), step) / RUN).exists() for region in parts)
        (whole if there else waiting).append(step)
    return whole[:-keep] + waiting[1:-keep]


def superseded_parts(folder: Path, region: int, ahead: int) -> list[int]:
    """Steps of a worker's own parts that no checkpoint needs, nor will: but for those of checkpoints that are there, and the last
    `ahead` of those that are to come."""
    named, parts = steps_in(folder), steps_in(local_folder(folder, region))
    newest = named[-1] if named else -1
    coming = [step for step in parts if step > newest]
    return [step for step in parts if step <= newest and step not in named] + coming[:-ahead]


def _parts_damage(folder: Path, step: int, workers: int) -> str:
    """What is wrong with the parts that workers had written by themselves and these will read."""
    for region in meta_of(of_step(folder, step)).get("parts", []):
        part = of_step(local_folder(folder, region), step)
        if region < workers and (found := damage(part)):
            return f"{local_folder(folder, region).name}: {found}"
    return ""


def _signature(file: Path) -> list[int]:
    """Size and CRC-32."""
    crc, size = 0, 0
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            crc, size = zlib.crc32(block, crc), size + len(block)
    return [size, crc]


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
