"""Where a run's coordinator may be by now: for a rank that its launcher starts again when the first rank is gone for good."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from roadtrain.launch.machine_token import private_folder
from roadtrain.launch.rank import Rank


class LastHeirs:
    """What a rank was told last of who takes the coordinator's place, in a file of this user's: by name, host:port."""

    def __init__(self, rank: Rank) -> None:
        folder = private_folder()
        name = f"heirs-{rank.address.replace(':', '_').replace('/', '_')}-{rank.port}-{rank.rank}.json"
        self._file: Path | None = None if folder is None else folder / name

    def read(self) -> dict[str, str]:
        """Empty where nothing is known."""
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(self._file.read_text(encoding="utf-8")) if self._file is not None else {}
            return {str(name): str(address) for name, address in dict(known).items()}
        return {}

    def write(self, heirs: Mapping[str, str]) -> None:
        """Remember these. Where that cannot be, the rank will look for the first one alone."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.write_text(json.dumps(dict(heirs)), encoding="utf-8")

    def forget(self) -> None:
        """The run is over for this rank."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)
