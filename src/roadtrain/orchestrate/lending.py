"""What a machine lends, as the person says it, with what it finds out itself; and the folder that it is lent with."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from roadtrain.orchestrate.agent import Lent


def own_name() -> str:
    """What this machine is called where nobody says."""
    return re.sub(r"[^\w.-]", "-", socket.gethostname().partition(".")[0])[:60] or "machine"


@contextmanager
def in_folder(lent: Lent, folder: Path | None) -> Iterator[Lent]:
    """`lent` with that folder, or with a new one that goes when it is over."""
    made = folder or Path(tempfile.mkdtemp(prefix="roadtrain-", dir=_state_folder()))
    try:
        yield replace(lent, folder=made.absolute())
    finally:
        if folder is None:
            shutil.rmtree(made, ignore_errors=True)


def _state_folder() -> Path | None:
    """A folder of this user; None: where temporary files go."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "roadtrain" / "machines"
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return None
    return state
