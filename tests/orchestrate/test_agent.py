"""A machine's way to its coordinator."""

from __future__ import annotations

from pathlib import Path

import pytest

from roadtrain.orchestrate.agent import Agent, Lent
from roadtrain.orchestrate.connection import Connection
from roadtrain.orchestrate.identity import Identity
from roadtrain.orchestrate.machine import Taken
from roadtrain.orchestrate.ticket import Role, Ticket


def test_what_is_under_way_is_not_hung_up_on_when_the_coordinator_is_back(
    tmp_path: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that another thread was bringing at that moment waited for two minutes, and the end of its run with it."""
    at, certificate = ["127.0.0.1:1"], identity.certificate.read_text()
    closed: list[str] = []
    monkeypatch.setattr(Connection, "to", lambda ticket: Connection(at[0], certificate, ""))
    lent = Lent(name="m", host="127.0.0.1", devices=1, takes_code=False, listens=False, folder=tmp_path)
    ticket = Ticket(Role.DRIVER, "0" * 16, identity.pin, bytes(16), (at[0],))
    agent = Agent(ticket, lent, print)
    agent._taken = Taken("m", "secret")
    first = agent._reach()
    monkeypatch.setattr(first, "close", lambda: closed.append(first.address))
    assert agent._reach() is first
    at[0] = "127.0.0.1:2"
    assert agent._reach().address == "127.0.0.1:2"
    assert not closed
