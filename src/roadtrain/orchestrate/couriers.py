"""What a machine fetches for its workers, and brings home of what they made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from roadtrain.orchestrate.archive import check_name, unpack
from roadtrain.orchestrate.connection import Connection
from roadtrain.orchestrate.crew import Crew, Hand
from roadtrain.orchestrate.machine import WorkerOrder

LOG_BYTES_MAX = 4_000_000
"""A log that is longer is brought when its worker has ended."""


def fetch_for(order: WorkerOrder, crew: Crew, connection: Connection) -> None:
    """What a worker needs before it begins. Raises PacketError, UsageError, Unreachable, OSError."""
    if not order.archive:
        crew.files("").mkdir(parents=True, exist_ok=True)
    elif not crew.files(order.archive).is_dir():
        archive = crew.archive(order.archive)
        _fetch(connection, f"/api/archives/{order.archive}", archive)
        unpack(archive, crew.files(order.archive))
    if order.resume:
        root = crew.run_folder(order.run)
        for name in msgspec.json.decode(connection.ask("GET", f"/api/runs/{order.run}/files"), type=list[str]):
            place = root / check_name(name)
            if name.startswith("checkpoint/") and not place.exists():
                _fetch(connection, f"/api/runs/{order.run}/files/{name}", place)


def _fetch(connection: Connection, path: str, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{place.name}.partial")
    with partial.open("wb") as file:
        connection.fetch(path, file.write)
    partial.replace(place)


def bring_home(hand: Hand, crew: Crew, connection: Connection) -> None:
    """Bring what is new of a worker's run to the coordinator. Raises as `Connection.bring` does."""
    root, ended = crew.run_folder(hand.order.run), hand.process is None
    for path in _made(root):
        try:
            now = path.stat()
        except FileNotFoundError:  # a checkpoint that is needed no longer
            continue
        name, sign = path.relative_to(root).as_posix(), (now.st_size, now.st_mtime_ns)
        too_long = name.startswith("logs/") and now.st_size > LOG_BYTES_MAX and not ended
        if hand.brought.get(name) != sign and now.st_size and not too_long:
            try:
                connection.bring(f"/api/runs/{hand.order.run}/files/{name}", path)
            except FileNotFoundError:
                continue
            hand.brought[name] = sign


def _made(root: Path) -> Iterator[Path]:
    """Files of a run that are whole. The model goes first; and what seals a checkpoint after all that is in it."""
    found = [path for path in root.rglob("*") if path.is_file()]
    shown = [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    kept = [path for path in shown if path.relative_to(root).parts[0] in ("logs", "checkpoint") or path.parent == root]
    yield from sorted(kept, key=lambda path: ("checkpoint" in path.parts, path.name == "run.json", path))
