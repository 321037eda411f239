"""`roadtrain coordinator`, `join`, `feed`, `token`: a fleet from the command line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from roadtrain.cli.fleet_arguments import Coordinator, Feed, Join, TokenCreate, TokenRevoke
from roadtrain.cli.interruption import stopping_at_once


def coordinator(command: Coordinator) -> int:
    """Serve until it is asked to stop."""
    from roadtrain.orchestrate.serve import Announced, serve

    def announce(made: Announced) -> None:
        if made.quota:
            print(f"through a tunnel: {made.quota}", file=sys.stderr, flush=True)
        if command.json:
            digits = {"digits": made.digits} if made.digits else {}
            print(json.dumps({"ticket": made.ticket, "url": made.url, **digits}), flush=True)
            return
        print(f"on each machine:  roadtrain join {made.ticket}", flush=True)
        if made.digits:
            digits = f"{made.digits[:3]} {made.digits[3:]}"
            print(f"or, in this network:  roadtrain join  and the digits {digits}", flush=True)
        print("\nwith --allow-code, if it may run code that a driver sends. Then, from anywhere:\n", flush=True)
        print("    roadtrain run TARGET --on TICKET\n    roadtrain status --on TICKET\n", flush=True)
        print(f"its page is {made.url}, and asks for the ticket; what it knows is in {command.state}", flush=True)

    serve(command.listen, command.state, announce, lan=command.lan, tunnel=command.tunnel)
    return 0


def join(command: Join) -> int:
    """Lend this machine until it is asked to leave."""
    with stopping_at_once():
        from roadtrain.orchestrate.ticket import VARIABLE, Ticket

        if command.ticket is None and not os.environ.get(VARIABLE):
            from roadtrain.cli.nearby import ticket_nearby

            ticket = ticket_nearby()
        else:
            ticket = Ticket.given(command.ticket)
        from roadtrain.orchestrate.agent import Lent, lend
        from roadtrain.orchestrate.lending import in_folder, own_name
    lent = Lent(
        name=command.name or own_name(),
        host=command.host,
        devices=command.devices,
        takes_code=command.allow_code,
        listens=command.listens,
        folder=Path(),
    )

    def announce(machine: str) -> None:
        if command.json:
            print(json.dumps({"machine": machine}), flush=True)
        else:
            code = "and runs code of drivers" if command.allow_code else "and runs recipes alone (--allow-code: any)"
            print(f"this machine is {machine} {code}; Ctrl-C has it leave", flush=True)

    with in_folder(lent, command.folder) as here:
        return lend(ticket, here, announce)


def feed(command: Feed) -> int:
    """Make batches until it is asked to end."""
    with stopping_at_once():
        from roadtrain.orchestrate.ticket import Ticket

        ticket = Ticket.read(command.on)
        from roadtrain.launch.cores import cores
        from roadtrain.orchestrate.feeds import Fed, Feeds

        processes = command.processes or cores()
        what = Fed(target=command.target, host=command.host, processes=processes, listens=command.listens)
        feeds = Feeds(ticket, what, lambda text: print(text, file=sys.stderr, flush=True))
        name = feeds.join()

    def announce() -> None:
        if command.json:
            print(json.dumps({"feeder": name}), flush=True)
        else:
            print(f"{name} feeds runs of {command.target}; Ctrl-C ends it", flush=True)

    return feeds.live(announce)


def token_create(command: TokenCreate) -> int:
    """Make a ticket for one role."""
    from roadtrain.orchestrate.connection import Connection
    from roadtrain.orchestrate.ticket import Ticket
    from roadtrain.orchestrate.token_request import TokenRequest

    connection = Connection.to(Ticket.read(command.on))
    try:
        asked = TokenRequest(command.role, command.expires_s, command.uses)  # pyright: ignore[reportArgumentType]
        made = json.loads(connection.ask("POST", "/api/tokens", asked))
    finally:
        connection.close()
    if command.json:
        print(json.dumps(made))
    else:
        print(made["ticket"])
        print(f"its id is {made['id']}: roadtrain token revoke {made['id']} --on TICKET", file=sys.stderr)
    return 0


def token_revoke(command: TokenRevoke) -> int:
    """Have a ticket let nobody in any more."""
    from roadtrain.orchestrate.connection import Connection
    from roadtrain.orchestrate.ticket import Ticket

    connection = Connection.to(Ticket.read(command.on))
    try:
        connection.ask("POST", f"/api/tokens/{command.id}/revoke")
    finally:
        connection.close()
    if command.json:
        print(json.dumps({"id": command.id, "revoked": True}))
    else:
        print(f"{command.id} is revoked")
    return 0
