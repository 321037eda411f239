"""A run's folder that is elsewhere: a URL of any file system that fsspec knows (s3://…, gs://…, ssh://…). The run has a folder
here as always, and what is in it is copied there when it ends."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from roadtrain.errors import RunFailed, UsageError

URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://.*")
CHECK = ".roadtrain"
"""A file that is written and removed again, to see whether that can be done before a run takes hours."""


def is_url(text: str) -> bool:
    """Whether it names no folder of this machine."""
    return URL.fullmatch(text) is not None


def check_url(url: str) -> None:
    """Raises UsageError for one that cannot be written to."""
    system, path = _opened(url)
    try:
        system.makedirs(path, exist_ok=True)
        system.pipe_file(f"{path}/{CHECK}", b"")
        system.rm_file(f"{path}/{CHECK}")
    except Exception as error:  # each file system has its own
        raise UsageError(f"cannot write to {url} ({_said(error)})", "choose another --out") from error


def copy_to(url: str, folder: Path) -> None:
    """Copy all that is in `folder` there, but what is hidden. Raises RunFailed."""
    system, path = _opened(url)
    try:
        for file in sorted(each for each in folder.rglob("*") if each.is_file()):
            name = file.relative_to(folder).as_posix()
            if not name.startswith(".") and not name.startswith("coordinator.sqlite"):
                place = f"{path}/{name}"
                system.makedirs(place.rpartition("/")[0], exist_ok=True)
                system.put_file(str(file), place)
    except Exception as error:
        raise RunFailed(f"the run's folder cannot be copied to {url} ({_said(error)})", f"it is in {folder}") from error


def _opened(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    try:
        system, path = url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UsageError(
            f"--out {url}: {_said(error)}", "write s3://BUCKET/FOLDER, or a folder of this machine"
        ) from error
    return system, path.rstrip("/")


def _said(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
