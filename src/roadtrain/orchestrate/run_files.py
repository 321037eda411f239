"""What a run leaves behind, at the coordinator: its own records, and what machines bring."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterable
from pathlib import Path

from roadtrain.checkpoint.folder import AHEAD, of_step, superseded, superseded_parts
from roadtrain.errors import PacketError
from roadtrain.orchestrate.archive import PARTIAL, check_name, receive

RECORDS = ("plan.toml", "events.jsonl", "metrics.jsonl", "ledger.jsonl", "report.json")
"""What the coordinator itself writes."""
FOLDERS = ("best", "checkpoint", "logs")
"""What machines bring besides files that stand in the run's folder itself."""


def whole_files(root: Path) -> list[Path]:
    """All of a run's folder that is whole, by its name there: the model first, and what seals a checkpoint after what is in it.
    Folders that are hidden are being written."""
    found = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    shown = [path for path in found if not (path.name.endswith(PARTIAL) or any(p[0] == "." for p in path.parts[:-1]))]
    kept = [path for path in shown if len(path.parts) > 1 or not path.name.startswith(".")]
    return sorted(kept, key=lambda path: ("checkpoint" in path.parts, path.name == "run.json", path))


def prune(folder: Path, keep: int, began: int | None) -> None:
    """Remove checkpoints that are needed no longer, as on the machines that wrote them; but for the one of the step that the run
    `began` with, which whoever comes later reads."""
    for step in superseded(folder, keep):
        if step != began:
            shutil.rmtree(of_step(folder, step), ignore_errors=True)
    for parts in folder.glob("local-*"):
        for step in superseded_parts(folder, int(parts.name.partition("-")[2]), keep + AHEAD):
            if step != began:
                shutil.rmtree(of_step(parts, step), ignore_errors=True)


class RunFiles:
    """The folders of runs in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "runs"

    def path(self, run: str, name: str) -> Path:
        """Where a file of a run is. Raises PacketError for a name that leads elsewhere, or is none of what is shown."""
        path = check_name(name)
        if path.parts[0].startswith((".", "coordinator.sqlite")):
            raise PacketError(f"{name!r} is not shown")
        return self._folder / run / path

    def names(self, run: str) -> list[str]:
        """All that is there to be fetched; what seals a checkpoint comes after what is in it."""
        root = self._folder / run
        shown = [path for path in whole_files(root) if not path.name.startswith("coordinator.sqlite")]
        return [path.as_posix() for path in shown]

    async def receive(self, run: str, name: str, stream: AsyncIterable[bytes]) -> None:
        """A machine brings a file. Raises PacketError for one that is none of its to write."""
        path = check_name(name)
        inside = path.parts[0] in FOLDERS if len(path.parts) > 1 else path.name not in RECORDS
        if not inside:
            raise PacketError(f"{name!r} is not a machine's to write")
        await receive(self.path(run, name), "", stream)
