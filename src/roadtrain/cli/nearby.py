"""A ticket without pasting one: of a coordinator in this network, for the six digits that it shows."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from roadtrain.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from roadtrain.orchestrate.lan.discovery import Nearby
    from roadtrain.orchestrate.ticket import Ticket

PASTE = "paste a ticket: roadtrain join TICKET"


def ticket_nearby() -> Ticket:
    """Ask the person which coordinator it is, and for its digits, until they are right. Raises UsageError."""
    try:
        from roadtrain.orchestrate.lan.discovery import look
        from roadtrain.orchestrate.lan.joining import ticket_for
        from roadtrain.orchestrate.lan.pairing import Mistyped, WrongDigits, typed
    except ModuleNotFoundError as missing:
        hint = f"pip install 'roadtrain[lan]', or {PASTE}"
        raise UsageError(f"to join without a ticket {missing.name} is wanted, which is not installed", hint) from None
    _say("looking for coordinators in this network ...\n")
    found = look()
    if not found:
        raise UsageError(
            "no coordinator is seen in this network",
            f"it runs with --lan? it cannot be seen in Docker, WSL2 and guest Wi-Fi: {PASTE}",
        )
    for number, each in enumerate(found, 1):
        _say(f"  {number}  {each.name} at {', '.join(each.addresses)}\n")
    chosen = found[0] if len(found) == 1 else _chosen(found)
    while True:
        text = _answer(f"the six digits that {chosen.name} shows: ")
        try:
            return ticket_for(typed(text), chosen.addresses)
        except (Mistyped, WrongDigits) as wrong:
            _say(f"{wrong.line()}\n")


def _chosen(found: list[Nearby]) -> Nearby:
    while True:
        text = _answer(f"which one, 1 to {len(found)}: ")
        if text.isascii() and text.isdigit() and 1 <= int(text) <= len(found):
            return found[int(text) - 1]


def _answer(question: str) -> str:
    """A line that the person types. Raises UsageError where nobody is there to."""
    _say(question)
    try:
        line = sys.stdin.readline()
    except KeyboardInterrupt:
        raise Interrupted("stopped before this machine had joined") from None
    if not line:
        _say("\n")
        raise UsageError("nobody has typed the digits", PASTE)
    return line.strip()


def _say(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)
