"""One run, as its own coordinator shows it: the same at a glance as a fleet, with one run in it."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import Counter
from typing import Any

from fastapi import HTTPException
from starlette.requests import HTTPConnection

from roadtrain.dashboard.broadcast import Broadcast
from roadtrain.dashboard.routes import bearer
from roadtrain.dashboard.series import Series
from roadtrain.dashboard.watched import Rows
from roadtrain.errors import UsageError
from roadtrain.fleet.run_state import links_of, regions_of, summary_of, workers_of
from roadtrain.fleet.sessions import Sessions
from roadtrain.plan import Target
from roadtrain.wire.credentials import Credentials


def page_token(credentials: Credentials) -> str:
    """With what a person looks at a run, and may stop it. The run's own token does not follow from it."""
    return hmac.new(credentials.token.encode(), b"roadtrain/page/1", hashlib.sha256).hexdigest()[:32]


class RunGate:
    """Lets those look who have the page's token, or the run's."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._page = f"Bearer {page_token(credentials)}".encode()

    def look(self, connection: HTTPConnection) -> None:
        """As in `Gate`."""
        said = bearer(connection)
        if not (hmac.compare_digest(said.encode(), self._page) or self._credentials.accepts(said)):
            raise HTTPException(401, "wrong or missing token")


class WatchedRun:
    """The run of `sessions`. The machines are the hosts that its workers name."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        plan = sessions.plan
        is_script = bool(plan.job.target) and Target.parse(plan.job.target).is_script
        self._told: dict[str, Any] = {"target": plan.job.target, "sync": plan.sync.strategy}
        self._told["steps"] = None if is_script else plan.job.steps
        self._told |= {"status": "running", "submitted": round(time.time(), 1)}

    @property
    def broadcast(self) -> Broadcast:
        """As in `Watched`, and so all that follow."""
        return self._sessions.broadcast

    def machines(self) -> Rows:
        hosts = Counter(worker["host"] for worker in workers_of(self._sessions) if worker["alive"])
        return [
            {"machine": host, "host": host, "devices": count, "kind": "", "takes_code": True, "state": "busy"}
            for host, count in hosts.items()
        ]

    def workers(self, run: str | None = None) -> Rows:
        mine = run is None or run == self._sessions.run
        return [{**worker, "machine": worker["host"]} for worker in workers_of(self._sessions)] if mine else []

    def runs(self) -> Rows:
        return [{**self._told, **summary_of(self._sessions)}]

    def links(self, most: int | None = None) -> Rows:
        return links_of(self._sessions, most)

    def regions(self) -> Rows:
        return regions_of(self._sessions)

    def machine_links(self, most: int | None = None) -> Rows:
        return []

    def machine_regions(self) -> Rows:
        return []

    def series(self, run: str) -> Series:
        self._check(run)
        return self._sessions.series

    def events(self, run: str, after: int) -> Rows:
        self._check(run)
        return self._sessions.store.events(after)

    def _check(self, run: str) -> None:
        if run != self._sessions.run:
            raise UsageError(f"there is no run {run} here", f"this is the coordinator of {self._sessions.run}")
