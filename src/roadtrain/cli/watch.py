"""`roadtrain status`, `runs`, `stop`, `leave`: a fleet looked at and steered from the command line."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from roadtrain.cli.watch_arguments import Leave, Runs, Status, Stop
from roadtrain.errors import RunFailed, UsageError

if TYPE_CHECKING:
    from roadtrain.orchestrate.connection import Connection

WATCH_S = 1.0
LEAVE_S = 120.0
"""Longest wait for a machine that was asked to leave."""


@contextlib.contextmanager
def connected(on: str) -> Generator[Connection]:
    """To the coordinator of the ticket `on`. Raises UsageError, Unreachable."""
    from roadtrain.orchestrate.connection import Connection
    from roadtrain.orchestrate.ticket import Ticket

    connection = Connection.to(Ticket.read(on))
    try:
        yield connection
    finally:
        connection.close()


def asked(connection: Connection, path: str, **query: int) -> Any:
    """The answer to a GET."""
    return json.loads(connection.ask("GET", path, **query))


def status(command: Status) -> int:
    """Show machines, runs and links, once or until Ctrl-C."""
    from roadtrain.cli.fleet_report import show, show_live

    with connected(command.on) as connection:
        if command.watch and not command.json and sys.stdout.isatty():
            show_live(lambda: asked(connection, "/api/status"), WATCH_S)
        while True:
            said = asked(connection, "/api/status")
            print(json.dumps(said), flush=True) if command.json else show(said)
            if not command.watch:
                return 0
            time.sleep(WATCH_S)


def runs(command: Runs) -> int:
    """List all runs."""
    from roadtrain.cli.fleet_report import show_runs

    with connected(command.on) as connection:
        said = asked(connection, "/runs")
    if command.json:
        print(json.dumps({"runs": said}))
    else:
        show_runs(said)
    return 0


def stop(command: Stop) -> int:
    """Have a run end."""
    with connected(command.on) as connection:
        connection.ask("POST", f"/api/runs/{quote(command.run, safe='')}/stop", at_once=command.at_once)
    if command.at_once:
        print(f"{command.run} stops at once, and saves nothing")
    else:
        print(f"{command.run} saves a checkpoint and ends; roadtrain runs shows when it has")
    return 0


def leave(command: Leave) -> int:
    """Have a machine leave, and wait until it has; without a name all agents of this user here."""
    if not command.machine:
        if command.on:
            raise UsageError("leave --on wants the name of a machine", "roadtrain status shows them")
        from roadtrain.orchestrate.agents_here import ask_to_leave

        print(f"left: {', '.join(ask_to_leave())}")
        return 0
    if not command.on:
        raise UsageError(f"leave {command.machine} wants --on TICKET", "without a name it is this machine that leaves")
    with connected(command.on) as connection:
        connection.ask("POST", f"/api/machines/{quote(command.machine, safe='')}/leave")
        end = time.monotonic() + LEAVE_S
        while any(m["machine"] == command.machine and m["state"] != "away" for m in asked(connection, "/machines")):
            if time.monotonic() > end:
                raise RunFailed(f"{command.machine} has not left within {LEAVE_S:.0f} s", "roadtrain status shows it")
            time.sleep(0.2)
    print(f"left: {command.machine}")
    return 0
