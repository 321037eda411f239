"""The command line as data: `parse` turns arguments into a command, and prints nothing but --help, --version.

The flags of a command come from the plan's own settings, so a new setting is a new flag of the commands that read it. Only
flags that were given land in `flags`; defaults stay with the plan.
"""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from roadtrain.errors import UsageError, nearest
from roadtrain.plan import SECTIONS, Setting, settings

NEGATIVE_NUMBER = re.compile(r"-(\.?\d.*|inf|nan)")
METAVARS = {str: "TEXT", int: "N", float: "X"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """`roadtrain run`: `target` is None only with `resume`; `flags` are the given ones by (section, field)."""

    target: str | None
    flags: Mapping[tuple[str, str], object]
    plan_file: Path | None
    resume: Path | None
    out: Path | None
    json: bool
    debug: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulate:
    """`roadtrain simulate`: `flags` as in `Run`."""

    target: str
    flags: Mapping[tuple[str, str], object]
    plan_file: Path | None
    out: Path | None
    json: bool
    debug: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare:
    """`roadtrain compare`: `flags` as in `Run`, where --sync and --codec may name several with commas between them.

    `virtual`: in virtual time. `seeds`: runs of each plan. `words`: the arguments as they were given.
    """

    target: str
    flags: Mapping[tuple[str, str], object]
    plan_file: Path | None
    out: Path | None
    virtual: bool
    seeds: int
    target_loss: float | None
    words: tuple[str, ...]
    json: bool
    debug: bool


@dataclass(frozen=True, slots=True)
class Help:
    """No command was given: the page to print on stdout."""

    text: str


Command = Run | Simulate | Compare | Help

REAL_ONLY = {("watch", "checkpoint_every")} | {key for key in settings() if key[0] == "layout"}
"""Settings that mean nothing in virtual time."""
EPILOG = (
    "Every setting can also stand in a TOML file (--plan) or in the environment: --fragment-mb is ROADTRAIN_FRAGMENT_MB. "
    "Flags win over the environment, the environment over the file, the file over the recipe's own defaults, and those over "
    "the defaults shown here."
)


def parse(argv: Sequence[str]) -> Command:
    """The command in `argv` (without the program's name).

    Raises UsageError for everything wrong; SystemExit only for --help and --version, which print.
    """
    parser, commands = _parsers()
    if not argv:
        return Help(parser.format_help())
    first = argv[0]
    if first not in (*commands, "-h", "--help", "--version"):
        if first.startswith("-"):
            raise UsageError(f"{first} stands before the command", f"write the command first: {', '.join(commands)}")
        raise UsageError(f"there is no command '{first}'", nearest(first, commands))
    given, rest = parser.parse_known_args(_with_negative_numbers(argv))
    _refuse(rest, commands[first])
    given.words = argv[1:]
    read: Callable[[argparse.Namespace], Command] = given.read
    return read(given)


class _Parser(argparse.ArgumentParser):
    """argparse without abbreviations, whose mistakes are UsageErrors."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False, formatter_class=_Formatter)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "), f"{self.prog} --help explains")

    def flags(self) -> list[str]:
        """Every long flag, negations included."""
        return [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)


class _Version(argparse.Action):
    """Reads the version only when asked: importlib.metadata is slow to import."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        print(f"roadtrain {version('roadtrain')}")
        parser.exit()


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
    """The parser of everything, and those of the commands by name."""
    parser = _Parser(prog="roadtrain", description="Train one PyTorch model on all the machines you have.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    added = {"run": _add_run(commands), "simulate": _add_simulate(commands), "compare": _add_compare(commands)}
    return parser, added


def _add_run(commands: Any) -> _Parser:
    parser: _Parser = commands.add_parser(
        "run",
        help="train a model",
        description="Train TARGET with workers on this machine.",
        usage="roadtrain run TARGET [flags]\n       roadtrain run --resume DIR [flags]",
        epilog=EPILOG,
    )
    _add_common(parser)
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run that this folder holds")
    _add_settings(parser, [setting for setting in settings().values() if setting.section != "simulate"])
    parser.set_defaults(read=_read_run)
    return parser


def _add_simulate(commands: Any) -> _Parser:
    parser: _Parser = commands.add_parser(
        "simulate",
        help="train a model in virtual time",
        description="Train TARGET on the virtual clock: any number of workers, links and faults, in one process.",
        usage="roadtrain simulate TARGET [flags]",
        epilog=EPILOG,
    )
    _add_common(parser)
    _add_settings(parser, [setting for setting in settings().values() if setting.key not in REAL_ONLY])
    parser.set_defaults(read=_read_simulate)
    return parser


def _add_compare(commands: Any) -> _Parser:
    parser: _Parser = commands.add_parser(
        "compare",
        help="train under several plans, side by side",
        description="Train TARGET under every plan of --sync and --codec (lists with commas): a table, a page, figures.",
        usage="roadtrain compare TARGET --sync ssgd,asgd,diloco:20 [--codec none,int8] [flags]",
        epilog=EPILOG,
    )
    _add_common(parser)
    parser.add_argument("--virtual", action="store_true", help="in virtual time, as simulate does")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each plan, with as many seeds")
    parser.add_argument("--target-loss", type=float, metavar="X", help="measure the time to this training loss")
    _add_settings(parser, [setting for setting in settings().values() if setting.key not in REAL_ONLY])
    parser.set_defaults(read=_read_compare)
    return parser


def _add_common(parser: _Parser) -> None:
    parser.add_argument("target", metavar="TARGET", nargs="?", help="what to train: a built-in recipe, such as gpt")
    parser.add_argument("--plan", type=Path, metavar="FILE", help="settings from this TOML file")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default: runs/ and a new name)")
    parser.add_argument("--json", action="store_true", help="print the report on stdout, and nothing else there")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _add_settings(parser: _Parser, chosen: Sequence[Setting]) -> None:
    """A flag for each of the settings that has one, grouped by section."""
    for section, cls in SECTIONS.items():
        flagged = [setting for setting in chosen if setting.section == section and setting.flag]
        if flagged:
            group = parser.add_argument_group(section, cls.__doc__)
            for setting in flagged:
                _add_setting(group, setting)


def _read_run(given: argparse.Namespace) -> Run:
    if given.resume is None:
        _need_target(given, "roadtrain run gpt --workers 2")
    return Run(**_asked(given), resume=given.resume)


def _read_simulate(given: argparse.Namespace) -> Simulate:
    _need_target(given, "roadtrain simulate gpt --workers 64")
    return Simulate(**_asked(given))


def _read_compare(given: argparse.Namespace) -> Compare:
    _need_target(given, "roadtrain compare xor --sync ssgd,asgd")
    own = {
        "virtual": given.virtual,
        "seeds": given.seeds,
        "target_loss": given.target_loss,
        "words": tuple(given.words),
    }
    return Compare(**_asked(given), **own)


def _need_target(given: argparse.Namespace, example: str) -> None:
    if given.target is None:
        raise UsageError("there is no TARGET", f"write it right after {example.split()[1]}: {example}")


def _asked(given: argparse.Namespace) -> dict[str, Any]:
    """What all commands that train something are asked."""
    names = ("target", "out", "json", "debug")
    return {name: getattr(given, name) for name in names} | {"flags": _given_flags(given), "plan_file": given.plan}


def _given_flags(given: argparse.Namespace) -> dict[tuple[str, str], object]:
    values = vars(given)
    return {key: values[dest] for key, setting in settings().items() if (dest := _destination(setting)) in values}


def _add_setting(group: Any, setting: Setting) -> None:
    """The flag of one setting, which leaves no trace in the namespace unless it is given."""
    spelt: dict[str, Any] = {"dest": _destination(setting), "default": argparse.SUPPRESS, "help": _help(setting)}
    if setting.kind is bool:
        group.add_argument(setting.flag, action=argparse.BooleanOptionalAction, **spelt)
        return
    spelt["type"] = functools.partial(setting.from_text, where=setting.label)
    spelt["metavar"] = setting.metavar or ("|".join(setting.choices) or METAVARS[setting.kind])
    if setting.many:
        spelt |= {"nargs": "+", "action": "extend"}
    group.add_argument(setting.flag, **spelt)


def _destination(setting: Setting) -> str:
    return f"{setting.section}.{setting.name}"


def _help(setting: Setting) -> str:
    shown = setting.default not in (None, "", ()) and setting.kind is not bool
    text = f"{setting.help} (default: {setting.default})" if shown else setting.help
    return text.replace("%", "%%")


def _with_negative_numbers(argv: Sequence[str]) -> list[str]:
    """`--lr -1e-3` as `--lr=-1e-3`: argparse takes only some negative numbers for values."""
    numeric = {setting.flag for setting in settings().values() if setting.kind in (int, float)}
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] in numeric and NEGATIVE_NUMBER.fullmatch(word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _refuse(rest: Sequence[str], command: _Parser) -> None:
    """Raises UsageError if the parser left anything over, for its first flag before other words."""
    for word in rest:
        if word.startswith("-"):
            flag = word.partition("=")[0]
            raise UsageError(f"there is no flag {flag}", nearest(flag, command.flags()))
    if rest:
        raise UsageError(f"'{rest[0]}' is one word too many", f"{command.prog} --help explains")
