"""A machine that has six digits gets a ticket for them."""

from __future__ import annotations

import msgspec

from roadtrain.errors import PeerError, UsageError
from roadtrain.orchestrate.connection import Connection
from roadtrain.orchestrate.identity import first_at
from roadtrain.orchestrate.lan.messages import Answer, Half, Proof, Wrong
from roadtrain.orchestrate.lan.pairing import Caller, WrongDigits
from roadtrain.orchestrate.lan.routes import HALF, PROOF
from roadtrain.orchestrate.ticket import Ticket


def ticket_for(digits: str, addresses: tuple[str, ...]) -> Ticket:
    """The ticket of the coordinator at `addresses` (host:port, the likeliest first), which shows `digits`.

    Raises WrongDigits, UsageError where it lets nobody in; Unreachable when nobody answers.
    """
    address, certificate, pin = first_at(addresses)
    connection = Connection(address, certificate, "")
    try:
        caller = Caller(digits, pin)
        answer = msgspec.json.decode(connection.ask("POST", HALF, Half(caller.half)), type=Half)
        key = caller.key(answer.half)
        said = Proof(answer.conversation, key.proof("machine"))
        welcome = msgspec.json.decode(connection.ask("POST", PROOF, said), type=Answer)
    except (msgspec.MsgspecError, PeerError):
        raise UsageError(f"who answers at {address} is no coordinator of this version", "paste a ticket") from None
    finally:
        connection.close()
    if isinstance(welcome, Wrong):
        raise WrongDigits(welcome.left)
    ticket = Ticket.parse(welcome.ticket)
    if not key.proves(welcome.proof, "coordinator", welcome.ticket.encode()) or ticket.pin != pin:
        raise UsageError(
            f"who answers at {address} does not know the digits", "somebody stands between: paste a ticket"
        )
    return Ticket(ticket.role, ticket.id, ticket.pin, ticket.secret, tuple(dict.fromkeys((address, *ticket.addresses))))
