"""Commands that train nothing themselves, and so have no TARGET and no settings, as data: those of a fleet."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from roadtrain.cli.machine_arguments import MACHINE, Verify
from roadtrain.cli.model_arguments import MODEL, ModelCommand
from roadtrain.cli.parser import Parser
from roadtrain.cli.plain_form import ON, PlainForm, add_json, add_on, count
from roadtrain.cli.watch_arguments import WATCH, WatchCommand
from roadtrain.errors import UsageError

PORT = 7946
ROLES = ("worker", "feeder", "viewer", "driver")
TUNNELS = ("ngrok", "cloudflared")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinator:
    """`roadtrain coordinator`."""

    listen: str
    state: Path
    lan: bool
    tunnel: str
    json: bool
    debug: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """`roadtrain join`. `ticket`: None for who is found nearby. `devices`: 0 for all."""

    ticket: str | None
    name: str
    host: str
    devices: int
    folder: Path | None
    allow_code: bool
    listens: bool
    json: bool
    debug: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """`roadtrain feed`. `processes`: 0 for one for each core."""

    target: str
    on: str
    host: str
    processes: int
    listens: bool
    json: bool
    debug: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCreate:
    """`roadtrain token create`."""

    on: str
    role: str
    expires_s: float | None
    uses: int | None
    json: bool
    debug: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRevoke:
    """`roadtrain token revoke`."""

    on: str
    id: str
    json: bool
    debug: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """`roadtrain relay`: `listen` is host:port."""

    listen: str
    debug: bool


FleetCommand = Relay | Coordinator | Join | Feed | TokenCreate | TokenRevoke
PlainCommand = FleetCommand | WatchCommand | ModelCommand | Verify


def read(name: str, words: Sequence[str]) -> PlainCommand:
    """The command `name` with `words`. Raises UsageError; SystemExit for --help alone."""
    if name == "token":
        known = tuple(each.partition(" ")[2] for each in FLEET if each.startswith("token "))
        if not words or words[0] in ("-h", "--help"):
            _parser("token create").parse_args(["--help"])
        if words[0] not in known:
            raise UsageError(f"there is no command 'token {words[0]}'", f"known: {', '.join(known)}")
        name, words = f"token {words[0]}", words[1:]
    given, rest = _parser(name).parse_known_args(words)
    if rest:
        raise UsageError(f"{name} does not take {rest[0]}", f"roadtrain {name} --help explains")
    return PLAIN[name].make(given)


def _parser(name: str) -> Parser:
    form = PLAIN[name]
    parser = Parser(prog=f"roadtrain {name}", description=form.description, usage=form.usage)
    form.add(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _add_coordinator(parser: Parser) -> None:
    default = f"0.0.0.0:{PORT}"
    parser.add_argument("--listen", default=default, metavar="HOST:PORT", help=f"where (default: {default})")
    parser.add_argument(
        "--state", type=Path, default=Path("fleet"), metavar="DIR", help="all that it keeps (default: fleet)"
    )
    parser.add_argument(
        "--lan", action="store_true", help="be seen in this network: join by six digits, without a ticket"
    )
    parser.add_argument(
        "--tunnel", choices=TUNNELS, default="", help="let those in through it who cannot dial this machine"
    )
    add_json(parser, "print ticket and url as one JSON object")


def _add_join(parser: Parser) -> None:
    parser.add_argument(
        "ticket", nargs="?", metavar="TICKET", help=f"{ON}; without one, of a coordinator nearby (--lan)"
    )
    parser.add_argument("--allow-code", action="store_true", help="run code that drivers send: jobs, scripts, codecs")
    parser.add_argument("--no-listen", dest="listens", action="store_false", help="dial out only; open no port")
    parser.add_argument("--name", default="", help="of this machine (default: its host name)")
    parser.add_argument("--host", default="", help="address at which others reach it (default: found out)")
    parser.add_argument("--devices", type=count, default=0, metavar="N", help="lend so many devices (default: all)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="for all that is written here (default: a new one)")
    add_json(parser, "print the machine's name as one JSON object")


def _add_feed(parser: Parser) -> None:
    parser.add_argument("target", metavar="TARGET", help="recipe, job or script of the runs that are fed")
    add_on(parser)
    parser.add_argument(
        "--processes", type=count, default=0, metavar="N", help="feeders of each run (default: one for each core)"
    )
    parser.add_argument("--host", default="", help="address at which workers reach it (default: found out)")
    parser.add_argument(
        "--no-listen", dest="listens", action="store_false", help="open no port: dial workers, or the relay"
    )
    add_json(parser, "print the feeder's name as one JSON object")


def _add_relay(parser: Parser) -> None:
    parser.add_argument(
        "--listen", required=True, metavar="HOST:PORT", help="where; 0.0.0.0 is every address of this host"
    )


def _add_create(parser: Parser) -> None:
    add_on(parser)
    parser.add_argument("--role", required=True, choices=ROLES, help="what it is for")
    parser.add_argument("--expires", type=_seconds, metavar="TIME", help="let in for so long: 30s, 20m, 8h, 7d")
    parser.add_argument("--uses", type=count, metavar="N", help="let in so often")
    add_json(parser, "print ticket and id as one JSON object")


def _add_revoke(parser: Parser) -> None:
    parser.add_argument("id", metavar="ID", help="as token create has printed it")
    add_on(parser)
    add_json(parser, "print what was done as JSON")


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text} is no time: write 30s, 20m, 8h or 7d")
    return float(found[1]) * SECONDS[found[2]]


FLEET: dict[str, PlainForm[FleetCommand]] = {
    "coordinator": PlainForm(
        help="serve a fleet of machines",
        description="Serve a fleet: machines join it with the ticket that this prints, and runs are placed on them.",
        usage="roadtrain coordinator [--listen HOST:PORT] [--state DIR] [--lan]\n"
        "                             [--tunnel PROGRAM]",
        add=_add_coordinator,
        make=lambda given: Coordinator(
            listen=given.listen,
            state=given.state,
            lan=given.lan,
            tunnel=given.tunnel,
            json=given.json,
            debug=given.debug,
        ),
    ),
    "join": PlainForm(
        help="lend this machine to a fleet",
        description="Lend this machine to the fleet whose ticket it is, until Ctrl-C. Without a ticket: to a coordinator in "
        "this network (roadtrain coordinator --lan), by the six digits that it shows.",
        usage="roadtrain join [TICKET] [--allow-code] [flags]",
        add=_add_join,
        make=lambda given: Join(
            ticket=given.ticket,
            name=given.name,
            host=given.host,
            devices=given.devices,
            folder=given.folder,
            allow_code=given.allow_code,
            listens=given.listens,
            json=given.json,
            debug=given.debug,
        ),
    ),
    "feed": PlainForm(
        help="make batches for a fleet's runs",
        description="Make batches for all runs of TARGET on a fleet, those too that begin later, until Ctrl-C.",
        usage="roadtrain feed TARGET --on TICKET [flags]",
        add=_add_feed,
        make=lambda given: Feed(
            target=given.target,
            on=given.on,
            host=given.host,
            processes=given.processes,
            listens=given.listens,
            json=given.json,
            debug=given.debug,
        ),
    ),
    "relay": PlainForm(
        help="let workers meet that cannot dial each other",
        description="Copy bytes between workers of which neither can dial the other, until Ctrl-C. What they say is encrypted "
        "from one to the other. Whoever has the secret that ROADTRAIN_TOKEN holds here may come.",
        usage="roadtrain relay --listen HOST:PORT",
        add=_add_relay,
        make=lambda given: Relay(listen=given.listen, debug=given.debug),
    ),
    "token create": PlainForm(
        help="make a ticket for one role",
        description="Make a ticket: worker joins machines, viewer looks, driver starts runs; feeder serves data.",
        usage="roadtrain token create --on TICKET --role ROLE [--expires TIME]\n"
        "                              [--uses N]\n"
        "       roadtrain token revoke ID --on TICKET",
        add=_add_create,
        make=lambda given: TokenCreate(
            on=given.on, role=given.role, expires_s=given.expires, uses=given.uses, json=given.json, debug=given.debug
        ),
    ),
    "token revoke": PlainForm(
        help="have a ticket let nobody in any more",
        description="Have a ticket let nobody in any more; machines that came with it are let go.",
        usage="roadtrain token revoke ID --on TICKET",
        add=_add_revoke,
        make=lambda given: TokenRevoke(on=given.on, id=given.id, json=given.json, debug=given.debug),
    ),
}
PLAIN: dict[str, PlainForm[PlainCommand]] = {**MODEL, **FLEET, **WATCH, **MACHINE}
"""By name; `token` stands for those that begin with it."""
NAMES = tuple(dict.fromkeys(name.partition(" ")[0] for name in PLAIN))
