"""What a machine fetches for its workers, and brings home of what they made."""

from __future__ import annotations

from pathlib import Path

import msgspec

from roadtrain.checkpoint.folder import of_step
from roadtrain.orchestrate.archive import PARTIAL, check_name, unpack
from roadtrain.orchestrate.connection import Connection
from roadtrain.orchestrate.crew import Crew, Hand
from roadtrain.orchestrate.machine import WorkerOrder
from roadtrain.orchestrate.run_files import whole_files

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
    if order.resume is not None:
        root, wanted = crew.run_folder(order.run), of_step(Path(), order.resume).name
        for name in msgspec.json.decode(connection.ask("GET", f"/api/runs/{order.run}/files"), type=list[str]):
            place = root / check_name(name)
            if wanted in place.parts and not place.exists():
                _fetch(connection, f"/api/runs/{order.run}/files/{name}", place)


def _fetch(connection: Connection, path: str, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(place.name + PARTIAL)
    with partial.open("wb") as file:
        connection.fetch(path, file.write)
    partial.replace(place)


def bring_home(hand: Hand, crew: Crew, connection: Connection) -> None:
    """Bring what is new of a worker's run to the coordinator. Raises as `Connection.bring` does."""
    root, ended = crew.run_folder(hand.order.run), hand.process is None
    for made in whole_files(root):
        name, path = made.as_posix(), root / made
        try:
            now = path.stat()
        except FileNotFoundError:  # a checkpoint that is needed no longer
            continue
        sign = now.st_size, now.st_mtime_ns
        later = name.startswith("logs/") and not ended and not 0 < now.st_size < LOG_BYTES_MAX
        if hand.brought.get(name) != sign and not later:
            try:
                connection.bring(f"/api/runs/{hand.order.run}/files/{name}", path)
            except FileNotFoundError:
                continue
            hand.brought[name] = sign
