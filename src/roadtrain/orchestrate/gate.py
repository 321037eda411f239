"""Who may ask a fleet's coordinator what: people by their tickets, machines by their secrets, runs' processes by the run's."""

from __future__ import annotations

import re
from collections.abc import Collection

from fastapi import HTTPException, Request
from starlette.requests import HTTPConnection

from roadtrain.dashboard.routes import bearer
from roadtrain.errors import UsageError
from roadtrain.orchestrate.hub import Hub
from roadtrain.orchestrate.machine import Machine
from roadtrain.orchestrate.register import NotAdmitted
from roadtrain.orchestrate.ticket import Role, Ticket


class Gate:
    """Who may do what."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def look(self, connection: HTTPConnection) -> None:
        """As in `dashboard.watched.Gate`."""
        self._admit(bearer(connection), Role.VIEWER, Role.DRIVER, what="look")

    def person(self, request: Request, *roles: Role, what: str, use: bool = False) -> Ticket:
        """The ticket of a request, if it serves to `what`. Raises UsageError (NotAdmitted) otherwise."""
        return self._admit(bearer(request), *roles, what=what, use=use)

    def _admit(self, authorization: str, *roles: Role, what: str, use: bool = False) -> Ticket:
        if not authorization:
            raise HTTPException(401, "a ticket is wanted: Authorization: Bearer TICKET")
        try:
            ticket = Ticket.parse(_word(authorization))
        except UsageError as error:
            raise NotAdmitted(error.message, error.hint) from None
        self._hub.register.admit(ticket, *roles, what=what, use=use)
        return ticket

    def machine(self, authorization: str) -> Machine:
        """The machine whose secret it is. Raises NotAdmitted."""
        name, _, secret = _word(authorization).rpartition(":")
        if not re.fullmatch(r"[0-9a-f]{32}", secret):
            raise NotAdmitted("this is no machine's secret")
        return self._hub.register.machine(name, bytes.fromhex(secret))

    def run(self, authorization: str) -> str | None:
        """The run whose secret it is, for the relay; None for another's."""
        for run in self._hub.runs.values():
            if run.status == "running" and run.credentials.accepts(authorization):
                return run.id
        return None

    def shared(self, authorization: str) -> str | None:
        """As `run`, of those who feed or take data by name."""
        name = self._hub.data.name_of(authorization)
        return None if name is None else f"data/{name}"

    def anybody(self, request: Request) -> None:
        """Raises unless it is a machine, or a person who may look."""
        if ":" in request.headers.get("authorization", ""):
            self.machine(request.headers["authorization"])
        else:
            self.person(request, Role.VIEWER, Role.DRIVER, what="look")

    def brings(self, request: Request, hosts: Collection[str]) -> None:
        """Raises unless it is one of the machines that a run has, or has had, workers on: they bring what these made."""
        machine = self.machine(request.headers.get("authorization", ""))
        if machine.name not in hosts:
            raise NotAdmitted(f"{machine.name} has no part in this run")


def _word(authorization: str) -> str:
    return authorization.removeprefix("Bearer ").strip()
