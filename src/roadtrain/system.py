"""On which systems roadtrain runs."""

from __future__ import annotations

import sys

from roadtrain.errors import UsageError


def refuse_windows() -> None:
    """Raises UsageError on Windows itself, which has neither signals nor locks of files as they are needed here."""
    if sys.platform == "win32":
        raise UsageError(
            "roadtrain does not run on Windows itself", "run it inside WSL2 (wsl --install), as a worker too"
        )
