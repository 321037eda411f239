"""`roadtrain join` without a ticket: what the person is asked, and told."""

from __future__ import annotations

import io
import sys

import pytest

from roadtrain.cli import nearby
from roadtrain.errors import UsageError
from roadtrain.orchestrate.lan import discovery, joining
from roadtrain.orchestrate.lan.discovery import Nearby
from roadtrain.orchestrate.lan.pairing import WrongDigits
from roadtrain.orchestrate.ticket import Role, draw

TICKET = draw(Role.WORKER, bytes(32), ("192.0.2.1:7946",))
ONE, TWO = Nearby("desk", ("192.0.2.1:7946",)), Nearby("lab", ("192.0.2.2:7946",))


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch):
    """Types these lines before these coordinators, of which lab has the digits 482913."""

    def types(text: str, *seen: Nearby) -> None:
        def ask(digits: str, addresses: tuple[str, ...]):
            if (digits, addresses) != ("482913", TWO.addresses):
                raise WrongDigits(4)
            return TICKET

        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        monkeypatch.setattr(discovery, "look", lambda: list(seen))
        monkeypatch.setattr(joining, "ticket_for", ask)

    return types


def test_of_several_one_is_chosen_and_digits_are_typed_until_they_are_right(person, capsys) -> None:
    person("3\nx\n2\n482\n111111\n482 913\n", ONE, TWO)
    assert nearby.ticket_nearby() == TICKET
    said = capsys.readouterr().err
    assert "  1  desk at 192.0.2.1:7946\n  2  lab at 192.0.2.2:7946\n" in said
    assert said.count("which one, 1 to 2: ") == 3
    assert "these are not 6 digits" in said
    assert "4 more tries" in said


def test_a_single_one_is_not_chosen(person, capsys) -> None:
    person("482913\n", TWO)
    assert nearby.ticket_nearby() == TICKET
    assert "which one" not in capsys.readouterr().err


def test_nobody_there_and_nobody_who_types(person) -> None:
    person("")
    with pytest.raises(UsageError, match="no coordinator is seen"):
        nearby.ticket_nearby()
    person("", TWO)
    with pytest.raises(UsageError, match="nobody has typed"):
        nearby.ticket_nearby()


def test_the_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "roadtrain.orchestrate.lan.discovery", None)
    with pytest.raises(UsageError, match="not installed") as missing:
        nearby.ticket_nearby()
    assert "roadtrain[lan]" in missing.value.hint
