"""A coordinator that is seen in its network, and a machine that has read its digits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_fleet import LiveFleet

from roadtrain.errors import UsageError
from roadtrain.orchestrate.lan.discovery import look
from roadtrain.orchestrate.lan.joining import ticket_for
from roadtrain.orchestrate.lan.pairing import TRIES, WrongDigits
from roadtrain.orchestrate.ticket import Role, Ticket


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[LiveFleet]:
    made = LiveFleet(tmp_path, "--lan")
    yield made
    made.close()


def other(digits: str) -> str:
    return f"{(int(digits) + 1) % 10**6:06d}"


def test_a_machine_joins_with_what_it_has_seen_and_read(fleet: LiveFleet) -> None:
    nearby = [each for each in look() if any(address.endswith(f":{fleet.port}") for address in each.addresses)]
    assert len(nearby) == 1
    ticket = ticket_for(fleet.digits, nearby[0].addresses)
    owner = Ticket.parse(fleet.ticket)
    assert (ticket.role, ticket.pin) == (Role.WORKER, owner.pin)
    fleet.join("--name", "neighbour", ticket=ticket.text())
    assert [each["machine"] for each in fleet.status()["machines"]] == ["neighbour"]
    again = fleet.ask("join", ticket.text())
    assert (again.returncode, "used up" in again.stderr) == (2, True)


def test_wrong_digits_are_told_and_then_the_door_is_shut(fleet: LiveFleet) -> None:
    at = (f"127.0.0.1:{fleet.port}",)
    for _ in range(TRIES - 1):
        with pytest.raises(WrongDigits):
            ticket_for(other(fleet.digits), at)
    with pytest.raises(UsageError, match="for a minute"):
        ticket_for(other(fleet.digits), at)
    with pytest.raises(UsageError, match="for a minute"):
        ticket_for(fleet.digits, at)
    refused = [json.loads(line) for line in fleet.coordinator.err.read_text().splitlines()]
    assert refused[0]["why"] == "these are not the digits that the coordinator shows"
    assert fleet.digits not in fleet.coordinator.err.read_text()
