"""The agents of this user on this machine: each leaves word of itself, so that `roadtrain leave` finds it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Generator, Iterator
from pathlib import Path

from roadtrain.errors import RunFailed, UsageError
from roadtrain.launch.machine_token import private_folder

WAIT_S = 90.0


def _folder() -> Path | None:
    found = private_folder()
    return None if found is None else found / "agents"


@contextlib.contextmanager
def here(machine: str) -> Generator[None]:
    """While this process is the agent of `machine`. Where there is no folder for it, it is not found."""
    folder = _folder()
    if folder is None:
        yield
        return
    folder.mkdir(exist_ok=True, mode=0o700)
    file = folder / f"{os.getpid()}"
    with file.open("w", encoding="utf-8") as handle:
        handle.write(machine)
        handle.flush()
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # goes with the process, however that ends
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def _living() -> Iterator[tuple[Path, str]]:
    folder = _folder()
    for file in sorted(folder.iterdir()) if folder is not None and folder.is_dir() else ():
        with contextlib.suppress(FileNotFoundError), file.open(encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                yield file, handle.read()
            else:
                file.unlink(missing_ok=True)


def machine_of(pid: int) -> str | None:
    """What the agent with that process is called; None where there is none."""
    return next((name for file, name in _living() if file.name == str(pid)), None)


def ask_to_leave() -> list[str]:
    """Have all of them leave, and wait until they have: their machines. Raises UsageError for none, RunFailed when one does
    not go."""
    living = list(_living())
    if not living:
        raise UsageError("this machine has joined no fleet", "leave is for the machine on which join runs")
    for file, _ in living:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(file.name), signal.SIGTERM)
    end = time.monotonic() + WAIT_S
    while still := [name for file, name in _living() if (file, name) in living]:
        if time.monotonic() > end:
            raise RunFailed(
                f"{', '.join(still)} has not left within {WAIT_S:.0f} s", "Ctrl-C it twice to end it at once"
            )
        time.sleep(0.1)
    return [name for _, name in living]
