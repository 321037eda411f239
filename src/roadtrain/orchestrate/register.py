"""What a coordinator knows for good, in SQLite: tickets, machines, the ways between them, runs. Started again, it goes on with
them.

Of secrets only hashes are kept. One thread uses it.
"""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from roadtrain.errors import UsageError
from roadtrain.orchestrate.machine import Machine, MachineLink
from roadtrain.orchestrate.placement import Place
from roadtrain.orchestrate.submission import RunStatus, Submission
from roadtrain.orchestrate.ticket import Role, Ticket

SCHEMA = """
CREATE TABLE IF NOT EXISTS tickets (id TEXT PRIMARY KEY, role TEXT, hash BLOB, expires REAL, uses INTEGER, revoked INTEGER,
    made REAL);
CREATE TABLE IF NOT EXISTS machines (name TEXT PRIMARY KEY, hash BLOB, ticket TEXT, said BLOB, seen REAL);
CREATE TABLE IF NOT EXISTS links (one TEXT, other TEXT, said BLOB, PRIMARY KEY (one, other));
CREATE TABLE IF NOT EXISTS runs (id TEXT PRIMARY KEY, made REAL, submission BLOB, status TEXT, places BLOB, attempt INTEGER,
    begun INTEGER, said TEXT, banned TEXT DEFAULT '[]');
"""
_submission = msgspec.json.Decoder(Submission)
_machine = msgspec.json.Decoder(Machine)
_link = msgspec.json.Decoder(MachineLink)
_places = msgspec.json.Decoder(tuple[Place, ...])


class NotAdmitted(UsageError):
    """A ticket, or a machine's own secret, that lets nobody in; and why."""


@dataclass(frozen=True, slots=True)
class KnownRun:
    """One run. `attempt`: how often it was placed. `begun`: its workers have come together. `said`: why it is over, where it did
    not just finish. `made`: seconds since 1970. `banned`: machines that it is not placed on any more."""

    id: str
    made: float
    submission: Submission
    status: RunStatus
    places: tuple[Place, ...]
    attempt: int
    begun: bool
    said: str
    banned: tuple[str, ...] = ()


class Register:
    """The file `fleet.sqlite` of a coordinator's folder."""

    def __init__(self, folder: Path) -> None:
        """Raises UsageError when it cannot be written, or is none."""
        self.folder = folder
        try:
            self._database = sqlite3.connect(folder / "fleet.sqlite", isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.executescript(SCHEMA)
            if "banned" not in {name for _, name, *_ in self._database.execute("PRAGMA table_info(runs)")}:
                self._database.execute("ALTER TABLE runs ADD COLUMN banned TEXT DEFAULT '[]'")  # of an older version
        except sqlite3.Error as error:
            raise UsageError(f"cannot use {folder / 'fleet.sqlite'} ({error})", "choose another --state") from error

    # --------------------------------------------------------------------------------------------------- tickets

    def add_ticket(self, ticket: Ticket, *, expires_s: float | None = None, uses: int | None = None) -> None:
        """Let `ticket` in from now on: for so many seconds, and so often, where that is said. It may be known already."""
        expires = None if expires_s is None else time.time() + expires_s
        row = (ticket.id, ticket.role.value, _hash(ticket.secret), expires, uses, 0, time.time())
        self._database.execute("INSERT OR IGNORE INTO tickets VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def admit(self, ticket: Ticket, *roles: Role, what: str, use: bool = False) -> None:
        """Raises NotAdmitted unless it lets in, and its role is one of `roles` or the owner's. `what` it is to be used for, in
        words; `use`: this counts as one of its uses."""
        query = "SELECT role, hash, expires, uses, revoked FROM tickets WHERE id = ?"
        row = self._database.execute(query, (ticket.id,)).fetchone()
        if row is None or not hmac.compare_digest(row[1], _hash(ticket.secret)):
            raise NotAdmitted(
                "this coordinator does not know the ticket", "it is of another one, or was not copied whole"
            )
        role, _, expires, uses, revoked = row
        if revoked:
            raise NotAdmitted("the ticket was revoked", "ask for a new one")
        if expires is not None and time.time() > expires:
            raise NotAdmitted("the ticket has expired", "ask for a new one")
        if Role(role) not in (*roles, Role.OWNER):
            raise NotAdmitted(
                f"the ticket is a {role}'s: it does not serve to {what}", "ask for one with another --role"
            )
        if use and uses is not None:
            if uses < 1:
                raise NotAdmitted("the ticket is used up", "ask for a new one")
            self._database.execute("UPDATE tickets SET uses = uses - 1 WHERE id = ?", (ticket.id,))

    def revoke(self, ticket_id: str) -> bool:
        """Let that ticket in no more, nor the machines that came with it. Whether there is one."""
        done = self._database.execute("UPDATE tickets SET revoked = 1 WHERE id = ?", (ticket_id,))
        return done.rowcount > 0

    # -------------------------------------------------------------------------------------------------- machines

    def add_machine(self, machine: Machine, secret: bytes, ticket: Ticket) -> None:
        """A machine has joined with `ticket`; from now on it shows `secret`."""
        row = (machine.name, _hash(secret), ticket.id, msgspec.json.encode(machine), time.time())
        self._database.execute("INSERT INTO machines VALUES (?, ?, ?, ?, ?)", row)

    def machine(self, name: str, secret: bytes) -> Machine:
        """Raises NotAdmitted for one that is not known, or whose ticket was revoked."""
        query = "SELECT machines.hash, said, revoked FROM machines LEFT JOIN tickets ON ticket = id WHERE name = ?"
        row = self._database.execute(query, (name,)).fetchone()
        if row is None or not hmac.compare_digest(row[0], _hash(secret)):
            raise NotAdmitted(f"this coordinator does not know the machine {name}", "join it anew")
        if row[2]:
            raise NotAdmitted(f"the ticket that {name} joined with was revoked", "ask for a new one")
        self._database.execute("UPDATE machines SET seen = ? WHERE name = ?", (time.time(), name))
        return _machine.decode(row[1])

    def machines(self) -> list[Machine]:
        """All that have joined and not left, in that order."""
        rows = self._database.execute("SELECT said FROM machines ORDER BY rowid").fetchall()
        return [_machine.decode(said) for (said,) in rows]

    def of_ticket(self, ticket_id: str) -> list[str]:
        """Machines that came with that ticket."""
        rows = self._database.execute("SELECT name FROM machines WHERE ticket = ?", (ticket_id,)).fetchall()
        return [name for (name,) in rows]

    def forget_machine(self, name: str) -> None:
        """It has left."""
        self._database.execute("DELETE FROM machines WHERE name = ?", (name,))
        self._database.execute("DELETE FROM links WHERE one = ? OR other = ?", (name, name))

    def forget_unseen(self, seconds: float) -> None:
        """Machines that have not been seen for so long come no more."""
        self._database.execute("DELETE FROM machines WHERE seen < ?", (time.time() - seconds,))
        known = "(SELECT name FROM machines)"
        self._database.execute(f"DELETE FROM links WHERE one NOT IN {known} OR other NOT IN {known}")

    def set_link(self, one: str, other: str, link: MachineLink) -> None:
        """What two machines have measured."""
        self._database.execute("INSERT OR REPLACE INTO links VALUES (?, ?, ?)", (one, other, msgspec.json.encode(link)))

    def links(self) -> dict[tuple[str, str], MachineLink]:
        """All that machines have measured, by pair."""
        rows = self._database.execute("SELECT one, other, said FROM links").fetchall()
        return {(one, other): _link.decode(said) for one, other, said in rows}

    # ------------------------------------------------------------------------------------------------------ runs

    def add_run(self, run: str, submission: Submission) -> None:
        """A run that waits for machines."""
        row = (run, time.time(), msgspec.json.encode(submission), "queued", b"[]", 0, 0, "")
        self._database.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, '[]')", row)

    def set_run(self, known: KnownRun) -> None:
        """Where it stands."""
        places, asked = msgspec.json.encode(known.places), msgspec.json.encode(known.submission)
        row = (known.status, places, known.attempt, int(known.begun), known.said, asked, _text(known.banned), known.id)
        self._database.execute(
            "UPDATE runs SET status = ?, places = ?, attempt = ?, begun = ?, said = ?, submission = ?, banned = ? WHERE id = ?",
            row,
        )

    def runs(self) -> list[KnownRun]:
        """All of them, the oldest first."""
        query = "SELECT id, made, submission, status, places, attempt, begun, said, banned FROM runs ORDER BY rowid"
        return [
            KnownRun(
                id,
                made,
                _submission.decode(raw),
                status,
                _places.decode(places),
                attempt,
                bool(begun),
                said,
                tuple(msgspec.json.decode(banned, type=list[str])),
            )
            for id, made, raw, status, places, attempt, begun, said, banned in self._database.execute(query)
        ]

    def close(self) -> None:
        """Write out and close."""
        self._database.close()


def _text(names: Sequence[str]) -> str:
    return msgspec.json.encode(names).decode()


def _hash(secret: bytes) -> bytes:
    """Of 16 random bytes: nothing that could be guessed, so one round will do."""
    return hashlib.sha256(b"roadtrain/ticket/1" + secret).digest()
