"""Who is let in, for how long and how often; and what a coordinator that was started again knows."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from roadtrain.orchestrate.machine import Machine
from roadtrain.orchestrate.placement import Place
from roadtrain.orchestrate.register import KnownRun, NotAdmitted, Register
from roadtrain.orchestrate.submission import Submission
from roadtrain.orchestrate.ticket import Role, draw

PIN = bytes(32)
MACHINE = Machine(name="lab", host="10.0.0.2", devices=2, kind="cuda", takes_code=True, listens=True)
SUBMISSION = Submission(version="1", target="xor", plan="", workers=None, archive="", wants_code=False)


def test_roles(register: Register) -> None:
    viewer, owner = draw(Role.VIEWER, PIN, []), draw(Role.OWNER, PIN, [])
    register.add_ticket(viewer)
    register.add_ticket(owner)
    register.admit(viewer, Role.VIEWER, what="look")
    register.admit(owner, Role.WORKER, what="join")
    with pytest.raises(NotAdmitted, match="viewer"):
        register.admit(viewer, Role.WORKER, what="join")


def test_uses_are_counted_where_they_count(register: Register) -> None:
    ticket = draw(Role.WORKER, PIN, [])
    register.add_ticket(ticket, uses=1)
    register.admit(ticket, Role.WORKER, what="join")
    register.admit(ticket, Role.WORKER, what="join", use=True)
    with pytest.raises(NotAdmitted, match="used up"):
        register.admit(ticket, Role.WORKER, what="join", use=True)


def test_it_expires(register: Register) -> None:
    ticket = draw(Role.WORKER, PIN, [])
    register.add_ticket(ticket, expires_s=-1)
    with pytest.raises(NotAdmitted, match="expired"):
        register.admit(ticket, Role.WORKER, what="join")


def test_another_secret_is_another_ticket(register: Register) -> None:
    ticket = draw(Role.OWNER, PIN, [])
    register.add_ticket(ticket)
    forged = draw(Role.OWNER, PIN, [])
    object.__setattr__(forged, "id", ticket.id)
    with pytest.raises(NotAdmitted, match="does not know"):
        register.admit(forged, what="look")
    assert ticket.secret not in (Path(register.folder) / "fleet.sqlite").read_bytes()


def test_whoever_came_with_a_revoked_ticket_goes_with_it(register: Register) -> None:
    ticket = draw(Role.WORKER, PIN, [])
    register.add_ticket(ticket)
    register.add_machine(MACHINE, b"s" * 16, ticket)
    assert register.machine("lab", b"s" * 16) == MACHINE
    with pytest.raises(NotAdmitted, match="does not know"):
        register.machine("lab", b"t" * 16)
    assert register.revoke(ticket.id)
    with pytest.raises(NotAdmitted, match="revoked"):
        register.machine("lab", b"s" * 16)
    assert not register.revoke("0" * 16)


def test_started_again_it_knows_machines_runs_and_tickets(tmp_path: Path) -> None:
    ticket, places = draw(Role.OWNER, PIN, []), (Place(0, "lab", 1), Place(3, "home", 0, 2))
    first = Register(tmp_path)
    first.add_ticket(ticket)
    first.add_machine(MACHINE, b"s" * 16, ticket)
    first.add_run("a run", SUBMISSION)
    first.set_run(KnownRun("a run", 0.0, SUBMISSION, "running", places, 2, True, "", ("b",)))
    again = Register(tmp_path)  # the one before was killed
    again.admit(ticket, what="anything")
    assert again.machines() == [MACHINE]
    (run,) = again.runs()
    assert (run.submission, run.status, run.places, run.attempt, run.begun) == (SUBMISSION, "running", places, 2, True)
    assert run.banned == ("b",)
    assert msgspec.json.encode(run.submission) == msgspec.json.encode(SUBMISSION)
