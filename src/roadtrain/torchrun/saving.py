"""What a script for one process saves, all workers save under the same name: whoever reads it finds it whole."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import torch


def write_whole() -> None:
    """From now on torch.save writes a file beside the one that it is given, and then puts it in its place."""
    original = torch.save

    @functools.wraps(original)
    def save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(f, str | os.PathLike):
            original(obj, f, *args, **kwargs)
            return
        place = Path(os.fspath(f)).resolve()  # a link stays one
        if place.exists() and not place.is_file():  # such as /dev/null
            original(obj, f, *args, **kwargs)
            return
        partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
        try:
            original(obj, partial, *args, **kwargs)
            partial.replace(place)
        finally:
            partial.unlink(missing_ok=True)

    torch.save = save
