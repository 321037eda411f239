"""The command line as data: `parse` turns arguments into a command, and prints nothing but --help, --version.

The flags of a command come from the plan's own settings and from what its target declares, so a new setting is a new flag of
the commands that read it. Only flags that were given land in `flags`; defaults stay with the plan.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roadtrain.cli.fleet_arguments import NAMES, PLAIN, PlainCommand, read
from roadtrain.cli.parser import (
    EPILOG,
    Parser,
    add_common,
    add_settings,
    destination,
    refuse,
    with_negative_numbers,
)
from roadtrain.cli.torchrun_arguments import add_torchrun
from roadtrain.cli.words import Words, split
from roadtrain.errors import UsageError, nearest
from roadtrain.launch.remote_folder import is_url
from roadtrain.launch.resumption import target_before
from roadtrain.plan import Declaration, Setting, Target, declaration_of, settings
from roadtrain.version import VERSION

Flags = Mapping[tuple[str, str], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """`roadtrain run`: `target` is None only with `resume`; `arguments` are a script's words; `flags` are the given ones by
    (section, field). `on`: the ticket of a fleet, or ray; "" for this machine; `send`: files and folders that travel there.
    `url`: where its folder is copied to when it ends."""

    target: str | None
    arguments: tuple[str, ...] = ()
    flags: Flags
    plan_file: Path | None
    resume: Path | None
    out: Path | None
    json: bool
    debug: bool
    on: str = ""
    send: tuple[Path, ...] = ()
    url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulate:
    """`roadtrain simulate`: as in `Run`."""

    target: str
    arguments: tuple[str, ...] = ()
    flags: Flags
    plan_file: Path | None
    out: Path | None
    json: bool
    debug: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare:
    """`roadtrain compare`: as in `Run`, where --sync and --codec may name several with commas between them.

    `virtual`: in virtual time. `on`: a Ray cluster, "" for this machine. `seeds`: runs of each plan. `words`: the arguments as
    they were given.
    """

    target: str
    arguments: tuple[str, ...] = ()
    flags: Flags
    plan_file: Path | None
    out: Path | None
    virtual: bool
    on: str
    seeds: int
    target_loss: float | None
    words: tuple[str, ...]
    json: bool
    debug: bool


@dataclass(frozen=True, slots=True)
class Help:
    """No command was given: the page to print on stdout."""

    text: str


Command = Run | Simulate | Compare | Help | PlainCommand


@dataclass(frozen=True, slots=True)
class Form:
    """How a command is asked for. `add`: its own flags. `reads`: whether it has a flag for a setting."""

    help: str
    description: str
    usage: str
    example: str
    add: Callable[[Parser], None]
    reads: Callable[[Setting], bool]
    make: Callable[[argparse.Namespace, dict[str, Any]], Command]


def parse(argv: Sequence[str]) -> Command:
    """The command in `argv` (without the program's name).

    Raises UsageError for everything wrong; SystemExit only for --help and --version, which print.
    """
    if not argv:
        return Help(_front().format_help())
    for word in (*argv, str(Path.cwd())):
        _check_text(word)
    first, words = argv[0], argv[1:]
    if first == "help":
        first, words = (words[0], ["--help"]) if words else ("--help", [])
    if first in FORMS:
        return _read(first, words)
    if first in NAMES:
        return read(first, words)
    if first.startswith("-"):
        if first in ("-h", "--help", "--version"):
            _front().parse_args([first])
        raise UsageError(
            f"{first} stands before the command", f"write the command first: {', '.join((*FORMS, *NAMES))}"
        )
    raise UsageError(f"there is no command '{first}'", nearest(first, (*FORMS, *NAMES)))


def _check_text(word: str) -> None:
    """Raises UsageError for a name that plans and reports, which are UTF-8, cannot hold."""
    try:
        word.encode()
    except UnicodeEncodeError:
        shown = word.encode(errors="backslashreplace").decode()
        raise UsageError(
            f"{shown} is no text in this locale", "rename it, or use a UTF-8 locale, such as LC_ALL=C.UTF-8"
        ) from None


def _front() -> Parser:
    """The parser of everything, for its page."""
    parser = Parser(prog="roadtrain", description="Train one PyTorch model on all the machines you have.")
    parser.add_argument(
        "--version", action="version", version=f"roadtrain {VERSION}", help="print the version and exit"
    )
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for name, form in FORMS.items():
        commands.add_parser(name, help=form.help)
    for name in NAMES:
        forms = [form for command, form in PLAIN.items() if command.partition(" ")[0] == name]
        commands.add_parser(name, help="; ".join(form.help for form in forms))
    return parser


def _parser(name: str, declared: Declaration) -> Parser:
    form = FORMS[name]
    parser = Parser(prog=f"roadtrain {name}", description=form.description, usage=form.usage, epilog=EPILOG)
    add_common(parser)
    form.add(parser)
    if name == "run" and (
        not declared.target or Target.parse(declared.target).is_script
    ):  # jobs may have settings so spelt
        add_torchrun(parser)
    add_settings(parser, filter(form.reads, settings().values()), declared)
    return parser


def _read(name: str, words: Sequence[str]) -> Command:
    ours = _parser(name, Declaration(""))
    found = split(words, ours)
    target = str(found.target) if found.target is not None else _gone_on_with(ours, found)
    declared = declaration_of(target)
    parser = _parser(name, declared) if declared.target else ours
    given, rest = parser.parse_known_args(with_negative_numbers(found.flags, declared.rows.values()))
    if found.target is None and getattr(given, "resume", None) is None:
        raise UsageError("there is no TARGET", f"write it right after {name}: {FORMS[name].example}")
    refuse(rest, parser, declared)
    values = vars(given)
    asked: dict[str, Any] = {key: values[key] for key in ("json", "debug")}
    url = values["out"] if values["out"] is not None and is_url(values["out"]) else ""
    if url and name != "run":
        raise UsageError(f"--out {url}: {name} wants a folder of this machine", "a URL is for run")
    asked["out"] = Path(values["out"]) if values["out"] is not None and not url else None
    given.url = url
    asked |= {"target": str(found.target) if found.target is not None else None, "arguments": found.arguments}
    asked["flags"] = {key: values[at] for key, row in declared.rows.items() if (at := destination(row)) in values}
    given.words = tuple(words)
    return FORMS[name].make(given, asked | {"plan_file": given.plan})


def _gone_on_with(ours: Parser, found: Words) -> str:
    """The target of the run that --resume names; "" where there is none, which is refused later."""
    folder = getattr(ours.parse_known_args(with_negative_numbers(found.flags, settings().values()))[0], "resume", None)
    try:
        return target_before(folder)[0] if folder is not None else ""
    except UsageError:
        return ""


def _add_run(parser: Parser) -> None:
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run that this folder holds")
    parser.add_argument(
        "--on", default="", metavar="TICKET", help="on the machines of this fleet (ticket, or its file), or: ray"
    )
    parser.add_argument(
        "--send", type=Path, nargs="+", action="extend", default=[], metavar="PATH", help="what travels there besides"
    )


def _add_compare(parser: Parser) -> None:
    parser.add_argument("--virtual", action="store_true", help="in virtual time, as simulate does")
    parser.add_argument("--on", default="", metavar="ray", help="on a Ray cluster")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each plan, with as many seeds")
    parser.add_argument("--target-loss", type=float, metavar="X", help="measure the time to this training loss")


def _compare(given: argparse.Namespace, asked: dict[str, Any]) -> Compare:
    own = {name: getattr(given, name) for name in ("virtual", "on", "seeds", "target_loss", "words")}
    return Compare(**asked, **own)


def _in_virtual_time(setting: Setting) -> bool:
    """Whether it means something there."""
    return setting.section != "layout" and setting.key not in (
        ("watch", "checkpoint_every"),
        ("watch", "validate_every"),
        ("watch", "log_to"),
        ("place", "feeders"),
        ("place", "shard_data"),
        ("job", "bad_samples"),
        ("job", "order"),
    )


FORMS: dict[str, Form] = {
    "run": Form(
        help="train a model",
        description="Train TARGET with workers on this machine.",
        usage="roadtrain run TARGET [flags]\n       roadtrain run [flags] SCRIPT.py [its arguments]\n"
        "       roadtrain run --resume DIR [flags]",
        example="roadtrain run gpt --workers 2",
        add=_add_run,
        reads=lambda setting: setting.section != "simulate",
        make=lambda given, asked: Run(**asked, resume=given.resume, on=given.on, send=tuple(given.send), url=given.url),
    ),
    "simulate": Form(
        help="train a model in virtual time",
        description="Train TARGET on the virtual clock: any number of workers, links and faults, in one process.",
        usage="roadtrain simulate TARGET [flags]",
        example="roadtrain simulate gpt --workers 64",
        add=lambda parser: None,
        reads=_in_virtual_time,
        make=lambda given, asked: Simulate(**asked),
    ),
    "compare": Form(
        help="train under several plans, side by side",
        description="Train TARGET under every plan of --sync and --codec (lists with commas): a table, a page, figures.",
        usage="roadtrain compare TARGET --sync ssgd,diloco:20 [--codec none,int8] [flags]",
        example="roadtrain compare xor --sync ssgd,asgd",
        add=_add_compare,
        reads=_in_virtual_time,
        make=_compare,
    ),
}
