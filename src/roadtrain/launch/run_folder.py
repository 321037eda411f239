"""A run's folder: opened for one run at a time, and left as it was when the run is refused."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

from roadtrain.checkpoint.folder import steps_in
from roadtrain.errors import UsageError
from roadtrain.launch.lock_holders import holders, how_to_end
from roadtrain.launch.run_request import RunRequest

LOCK = ".lock"
LEFT_BEHIND = (
    "metrics.jsonl",
    "events.jsonl",
    "coordinator.sqlite",
    "coordinator.sqlite-wal",
    "coordinator.sqlite-shm",
)
"""What a run that was killed before its first checkpoint leaves in a folder, and a new one there replaces."""


class RunLock:
    """Held by the process that runs a folder's run, and by its workers: as long as one of them lives, no other run is there."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to a worker, it is the same lock."""
        return _received, (DupFd(self._handle),)

    def close(self) -> None:
        """Let go of it here."""
        os.close(self._handle)


def _received(handle: Any) -> RunLock:
    return RunLock(handle.detach())


@contextmanager
def opened(order: RunRequest) -> Iterator[RunLock]:
    """Make the run's folder, lock it, and write the plan. If the run is then refused, plan and report of the one that was to be
    gone on with are put back. Raises UsageError when the folder cannot be written, or another run is in it.
    """
    lock = locked(order.folder)
    try:
        if order.resume is None:
            _refuse_another(order.folder)
            _clear(order.folder)
        kept = [order.folder / name for name in ("plan.toml", "report.json")]
        before = {file: file.read_bytes() for file in kept if file.exists()}
        try:
            (order.folder / "logs").mkdir(exist_ok=True)
            order.write_plan()
        except OSError as error:
            raise _unwritable(order.folder, error) from error
        try:
            yield lock
        except UsageError:
            for file, content in before.items():
                file.write_bytes(content)
            raise
    finally:
        lock.close()


def refuse_in_use(folder: Path) -> None:
    """Raises UsageError while a run in `folder`, or a worker of it, has not ended: its checkpoints come and go."""
    if folder.is_dir():
        locked(folder).close()


def locked(folder: Path) -> RunLock:
    """Make `folder`, and lock it for this process. Raises UsageError where it cannot be written, or another has it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UsageError(
            f"{folder} is in use: its run, or a worker of it, has not ended",
            f"wait for it, {how_to_end(holders(folder / LOCK))}, or choose another --out",
        ) from None
    except OSError:
        pass  # a file system without locks
    return RunLock(handle)


def _refuse_another(folder: Path) -> None:
    if (folder / "report.json").exists():
        raise UsageError(f"{folder} holds a finished run already", "choose another --out, or go on with --resume")
    if steps_in(folder / "checkpoint"):
        raise UsageError(
            f"{folder} holds the checkpoints of a run that did not end",
            f"go on with --resume {folder}, or choose another --out",
        )


def _clear(folder: Path) -> None:
    """What is left of a run that was killed before its first checkpoint is no part of this one. Other files are not ours."""
    if not (folder / "plan.toml").exists():
        return
    for name in LEFT_BEHIND:
        (folder / name).unlink(missing_ok=True)
    for log in (folder / "logs").glob("w*.log"):
        log.unlink()
    for pattern in ("local-*", ".step-*"):
        for left in (folder / "checkpoint").glob(pattern):
            shutil.rmtree(left, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> UsageError:
    return UsageError(f"cannot write to {folder} ({error.strerror})", "choose another --out")
