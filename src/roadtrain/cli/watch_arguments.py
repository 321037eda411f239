"""Commands that look at a fleet and steer it, as data."""

from __future__ import annotations

from dataclasses import dataclass

from roadtrain.cli.parser import Parser
from roadtrain.cli.plain_form import PlainForm, add_json, add_on


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """`roadtrain status`."""

    on: str
    watch: bool
    json: bool
    debug: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """`roadtrain runs`."""

    on: str
    json: bool
    debug: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    """`roadtrain logs`."""

    run: str
    on: str
    follow: bool
    debug: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """`roadtrain stop`. `at_once`: nothing is saved."""

    run: str
    on: str
    at_once: bool
    debug: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """`roadtrain leave`. `machine`: "" for this one, which needs no ticket."""

    machine: str
    on: str
    debug: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Doctor:
    """`roadtrain doctor`. `on`: "" for this machine alone."""

    on: str
    json: bool
    debug: bool


WatchCommand = Status | Runs | Logs | Stop | Leave | Doctor


def _add_status(parser: Parser) -> None:
    add_on(parser)
    parser.add_argument("--watch", action="store_true", help="again every second, until Ctrl-C")
    add_json(parser, "print all of it as JSON; with --watch one line each time")


def _add_runs(parser: Parser) -> None:
    add_on(parser)
    add_json(parser, "print them as JSON")


def _add_logs(parser: Parser) -> None:
    parser.add_argument("run", metavar="RUN", help="its name, as runs shows it")
    add_on(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the run is over")


def _add_stop(parser: Parser) -> None:
    parser.add_argument("run", metavar="RUN", help="its name, as runs shows it")
    add_on(parser)
    parser.add_argument("--at-once", action="store_true", help="save nothing")


def _add_leave(parser: Parser) -> None:
    parser.add_argument("machine", nargs="?", default="", metavar="MACHINE", help="its name (default: this machine)")
    add_on(parser, required=False)


def _add_doctor(parser: Parser) -> None:
    add_on(parser, required=False)
    add_json(parser, "print what was found as one JSON object")


WATCH: dict[str, PlainForm[WatchCommand]] = {
    "status": PlainForm(
        help="show a fleet's machines and runs",
        description="Show the machines of a fleet, its runs, and the links between their workers.",
        usage="roadtrain status --on TICKET [--watch] [--json]",
        add=_add_status,
        make=lambda given: Status(on=given.on, watch=given.watch, json=given.json, debug=given.debug),
    ),
    "runs": PlainForm(
        help="list a fleet's runs",
        description="List all runs that a fleet has had, the newest last.",
        usage="roadtrain runs --on TICKET [--json]",
        add=_add_runs,
        make=lambda given: Runs(on=given.on, json=given.json, debug=given.debug),
    ),
    "logs": PlainForm(
        help="show what a run and its workers say",
        description="Show the events of a run, and what its workers print. Without a terminal each line is a JSON object.",
        usage="roadtrain logs RUN --on TICKET [-f]",
        add=_add_logs,
        make=lambda given: Logs(run=given.run, on=given.on, follow=given.follow, debug=given.debug),
    ),
    "stop": PlainForm(
        help="have a run save and end",
        description="Have a run save a checkpoint and end, as Ctrl-C in its driver does.",
        usage="roadtrain stop RUN --on TICKET [--at-once]",
        add=_add_stop,
        make=lambda given: Stop(run=given.run, on=given.on, at_once=given.at_once, debug=given.debug),
    ),
    "leave": PlainForm(
        help="take a machine out of its fleet",
        description="Have a machine leave: others take over what it holds. Without MACHINE, all agents of this user on this one.",
        usage="roadtrain leave [MACHINE --on TICKET]",
        add=_add_leave,
        make=lambda given: Leave(machine=given.machine, on=given.on, debug=given.debug),
    ),
    "doctor": PlainForm(
        help="say what stands in the way of training here",
        description="Look at this machine, and at the way to a fleet and between its machines, and say what to mend.",
        usage="roadtrain doctor [--on TICKET] [--json]",
        add=_add_doctor,
        make=lambda given: Doctor(on=given.on, json=given.json, debug=given.debug),
    ),
}
