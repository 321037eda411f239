"""One pasted word: whole, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadtrain.errors import UsageError
from roadtrain.orchestrate.ticket import Role, Ticket, draw

PIN = bytes(range(32))


@given(st.sampled_from(Role), st.lists(st.sampled_from(["10.0.0.1:7946", "[::1]:80", "lab.example:7946"]), max_size=4))
def test_what_is_pasted_is_what_was_printed(role: Role, addresses: list[str]) -> None:
    ticket = draw(role, PIN, addresses)
    assert Ticket.parse(f"  {ticket.text()}\n") == ticket
    assert ticket.text().isascii()
    assert len(ticket.text().split()) == 1


@given(st.data())
def test_a_changed_character_is_noticed(data: st.DataObject) -> None:
    text = Ticket(Role.WORKER, "0123456789abcdef", PIN, PIN[:16], ("10.0.0.1:7946",)).text()
    at = data.draw(st.integers(0, len(text) - 2))  # the last one has bits that stand for nothing
    other = data.draw(st.sampled_from([c for c in "QZ_-a" if c != text[at]]))
    with pytest.raises(UsageError, match="ticket"):
        Ticket.parse(text[:at] + other + text[at + 1 :])


@pytest.mark.parametrize("text", ["", "nonsense", "rt1", "rt1!!!", "rt2AAAA", "rt1" + "A" * 40])
def test_what_is_none_is_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="ticket"):
        Ticket.parse(text)


def test_a_secret_is_in_no_error_and_no_repr() -> None:
    ticket = draw(Role.OWNER, PIN, ["10.0.0.1:7946"])
    assert ticket.text()[60:] not in repr(ticket)
    with pytest.raises(UsageError) as refused:
        Ticket.parse(ticket.text()[:-6])
    assert ticket.text()[10:40] not in refused.value.line()


def test_it_may_stand_in_a_file(tmp_path: Path) -> None:
    ticket = draw(Role.DRIVER, PIN, ["10.0.0.1:7946"])
    file = tmp_path / "ticket"
    file.write_text(ticket.text() + "\n")
    assert Ticket.read(str(file)) == ticket
