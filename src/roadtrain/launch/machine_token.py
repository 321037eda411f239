"""The token of runs under an SPMD launcher that stay on one machine: a secret of this user, which nobody else can read."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from roadtrain.errors import UsageError

WRITTEN_S = 2.0
"""How long a process that has just made the file may take to fill it."""


def machine_token() -> str:
    """The same for all processes of this user on this machine; drawn by the first that asks. Raises UsageError when there is no
    place for it that belongs to this user alone."""
    for folder in _private_folders():
        with contextlib.suppress(OSError):
            return _read_or_draw(folder / "token")
    raise UsageError(
        "there is no folder for the token of a run", "set ROADTRAIN_TOKEN to the same secret for every rank"
    )


def private_folder() -> Path | None:
    """A folder that belongs to this user alone; None where there is none."""
    return next(_private_folders(), None)


def _private_folders() -> Iterator[Path]:
    for folder in _folders():
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o077:
                yield folder


def _folders() -> list[Path]:
    """Where it may be, in the order in which all processes look."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return [Path(state) / "roadtrain", Path(tempfile.gettempdir()) / f"roadtrain-{os.getuid()}"]


def _read_or_draw(path: Path) -> str:
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read(path)
    with os.fdopen(file, "w", encoding="ascii") as writer:
        token = secrets.token_urlsafe(32)
        writer.write(token)
    return token


def _read(path: Path) -> str:
    end = time.monotonic() + WRITTEN_S
    while not (token := path.read_text(encoding="ascii").strip()):
        if time.monotonic() > end:
            raise UsageError(f"{path} is empty", "remove it")
        time.sleep(0.02)
    return token
