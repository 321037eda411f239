"""What a coordinator shows of itself: of one run, or of a fleet. All of it is plain data, in lists of tables."""

from __future__ import annotations

from typing import Any, Protocol

from starlette.requests import HTTPConnection

from roadtrain.dashboard.broadcast import Broadcast
from roadtrain.dashboard.series import Series

Rows = list[dict[str, Any]]
GLANCED = 32
"""Workers of a run, and machines, whose links are shown at a glance: there are as many as their square."""


class Watched(Protocol):
    """A coordinator. Methods that name a run raise UsageError where there is none of that name.

    machines: those that are here, or were a moment ago. workers: of runs that go on, or of one of them. runs: all, the oldest
    first. links, regions: the ways between workers, and which are near each other; machine_links, machine_regions: likewise of
    machines. `most`: of so many of them at most, or of each run; None: of all.
    """

    @property
    def broadcast(self) -> Broadcast:
        """What happens."""
        ...

    def machines(self) -> Rows: ...
    def workers(self, run: str | None = None) -> Rows: ...
    def runs(self) -> Rows: ...
    def links(self, most: int | None = None) -> Rows: ...
    def regions(self) -> Rows: ...
    def machine_links(self, most: int | None = None) -> Rows: ...
    def machine_regions(self) -> Rows: ...

    def series(self, run: str) -> Series:
        """The course of a run."""
        ...

    def events(self, run: str, after: int) -> Rows:
        """The next events of a run after the one with id `after`, oldest first, each with its `id`."""
        ...


class Gate(Protocol):
    """Who may look. Raises what the app answers with 401 or 403."""

    def look(self, connection: HTTPConnection) -> None:
        """Whether this request, or WebSocket, shows that it may."""
        ...


def glance(watched: Watched) -> dict[str, Rows]:
    """All tables by name."""
    return {
        "machines": watched.machines(),
        "workers": watched.workers(),
        "runs": watched.runs(),
        "links": watched.links(GLANCED),
        "regions": watched.regions(),
        "machine_links": watched.machine_links(GLANCED),
        "machine_regions": watched.machine_regions(),
    }
