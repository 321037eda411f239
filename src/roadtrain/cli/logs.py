"""`roadtrain logs`: the events of a run and what its workers print, as they come to the coordinator."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from roadtrain.cli.text_report import printable
from roadtrain.cli.watch import asked, connected
from roadtrain.cli.watch_arguments import Logs

if TYPE_CHECKING:
    from roadtrain.orchestrate.connection import Connection

LOOK_S = 0.5
OVER = ("finished", "failed", "interrupted")


def logs(command: Logs) -> int:
    """Show all that there is; with -f go on until the run is over."""
    plain = sys.stdout.isatty()
    with connected(command.on) as connection:
        reader = Reader(connection, quote(command.run, safe=""))
        while True:
            over = asked(connection, reader.path)["status"] in OVER
            for record in reader.news(last=over or not command.follow):
                print(_line(record) if plain else json.dumps(record), flush=command.follow)
            if over or not command.follow:
                return 0
            time.sleep(LOOK_S)


class Reader:
    """Of one run: what has come since it was asked last."""

    def __init__(self, connection: Connection, run: str) -> None:
        self.path = f"/api/runs/{run}"
        self._connection = connection
        self._event = 0
        self._read: dict[str, int] = {}
        self._begun: dict[str, bytes] = {}

    def news(self, *, last: bool) -> Iterator[dict[str, Any]]:
        """Events, then lines of each worker; one that is not at its end yet only if it is the `last` time."""
        while found := asked(self._connection, f"{self.path}/events", after=self._event):
            self._event = found[-1]["id"]
            for record in found:
                del record["id"]
                yield record
        for name in asked(self._connection, f"{self.path}/files"):
            if name.startswith("logs/"):
                yield from self._lines(name, last=last)

    def _lines(self, name: str, *, last: bool) -> Iterator[dict[str, Any]]:
        begin = self._read.get(name, 0)
        new = bytearray()
        self._connection.fetch(f"{self.path}/files/{quote(name)}?begin={begin}", new.extend)
        self._read[name] = begin + len(new)
        *whole, rest = (self._begun.pop(name, b"") + new).split(b"\n")
        if last and rest:
            whole, rest = [*whole, rest], b""
        self._begun[name] = rest
        worker = PurePosixPath(name).stem
        for line in whole:
            yield {"worker": worker, "line": line.decode(errors="replace")}


def _line(record: dict[str, Any]) -> str:
    """For a person."""
    if "line" in record:
        return f"{record['worker']:>4}  {printable(record['line'])}"
    rest = {name: value for name, value in record.items() if name not in ("event", "worker", "time_s")}
    who = f" {record['worker']}" if record.get("worker") else ""
    more = ", ".join(f"{name} {value}" for name, value in rest.items())
    return f"{record.get('time_s') or 0.0:6.1f} s  {record['event']}{who}{': ' if more else ''}{printable(more)}"
