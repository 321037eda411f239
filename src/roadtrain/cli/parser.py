"""The flags of a command: its own, those of the plan's settings, and those that its target declares."""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from roadtrain.errors import UsageError, nearest
from roadtrain.plan import OWN, SECTIONS, Declaration, Plan, Setting, Value, complete

NEGATIVE_NUMBER = re.compile(r"-(\.?\d.*|inf|nan)")
METAVARS = {str: "TEXT", int: "N", float: "X"}
TARGET = (
    "What to train. gpt, digits or xor: a built-in recipe. my_job.py:make or package.module:make: a job of your own, a function "
    "that makes a task; its settings are flags too, and TARGET --help shows them. script.py or -m package.module: a script of "
    "your own; all words after it are the script's, so flags stand before it."
)
EPILOG = (
    "Every setting can also stand in a TOML file (--plan) or in the environment: --fragment-mb is ROADTRAIN_FRAGMENT_MB. "
    "Flags win over the environment, the environment over the file, the file over the target's own defaults, and those over "
    "the defaults of roadtrain. Several hosts: where a launcher sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, each process "
    "is one worker; beyond one machine they want the same secret in ROADTRAIN_TOKEN."
)
ORDER = (OWN, "job", "place", "sync", "codec", "optimizer", "watch", "layout", "simulate")
"""Sections of the help: what most people look for first."""


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, whose mistakes are UsageErrors."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False, formatter_class=_Formatter)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "), f"{self.prog} --help explains")

    def flags(self) -> list[str]:
        """Every long flag, negations included."""
        return [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]

    def values_of(self, flag: str) -> str | int | None:
        """How many words `flag` takes: 0, 1, "+" for one or more; None where there is no such flag."""
        action = self._option_string_actions.get(flag)
        if action is None:
            return None
        return 1 if action.nargs is None else action.nargs


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)


def add_common(parser: Parser) -> None:
    """What all commands that train something are asked."""
    parser.add_argument_group("TARGET", TARGET)
    parser.add_argument("--plan", type=Path, metavar="FILE", help="settings from this TOML file")
    parser.add_argument(
        "--out", metavar="DIR", help="folder of the run (default: runs/ and a new name); run takes a URL too"
    )
    parser.add_argument("--json", action="store_true", help="print the report on stdout, and nothing else there")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_settings(parser: Parser, chosen: Iterable[Setting], declared: Declaration) -> None:
    """A flag for each of the settings that has one, grouped by section: the target's own first."""
    plan = complete({"job": {"target": declared.target}})
    titles = {OWN: (f"settings of {declared.target}", None)} | {s: (s, cls.__doc__) for s, cls in SECTIONS.items()}
    if not declared.target:
        job = "What is trained, and for how long. A target has defaults of its own: roadtrain run gpt --help shows those of gpt."
        titles["job"] = ("job", job)
    rows = [*declared.settings.values(), *chosen]
    for section in ORDER:
        title, text = titles[section]
        flagged = [row for row in rows if row.section == section and row.flag]
        if flagged:
            group = parser.add_argument_group(title, text)
            for row in flagged:
                _add_setting(group, row, _default(plan, row))


def _default(plan: Plan, row: Setting) -> Value:
    """What holds where nobody chooses: the target may prefer another value than we do."""
    return plan.settings[row.name] if row.section == OWN else getattr(getattr(plan, row.section), row.name)


def _add_setting(group: Any, row: Setting, default: Value) -> None:
    """The flag of one setting, which leaves no trace in the namespace unless it is given."""
    spelt: dict[str, Any] = {"dest": destination(row), "default": argparse.SUPPRESS, "help": _help(row, default)}
    if row.kind is bool:
        spelt["action"] = argparse.BooleanOptionalAction
    else:
        spelt["type"] = functools.partial(row.from_text, where=row.label)
        spelt["metavar"] = row.metavar or ("|".join(row.choices) or METAVARS[row.kind])
        if row.many:
            spelt |= {"nargs": "+", "action": "extend"}
    try:
        group.add_argument(row.flag, **spelt)
    except argparse.ArgumentError:
        raise UsageError(f"the target has two settings that are spelt {row.flag}", "rename one") from None


def destination(row: Setting) -> str:
    """Where argparse leaves what was given."""
    return f"{row.section}.{row.name}"


def _help(row: Setting, default: Value) -> str:
    shown = default not in (None, "", ()) and row.kind is not bool
    text = f"{row.help} (default: {default})".strip() if shown else row.help
    return text.replace("%", "%%")


def with_negative_numbers(words: Sequence[str], rows: Iterable[Setting]) -> list[str]:
    """`--lr -1e-3` as `--lr=-1e-3`: argparse takes only some negative numbers for values."""
    numeric = {row.flag for row in rows if row.kind in (int, float)}
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] in numeric and NEGATIVE_NUMBER.fullmatch(word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def refuse(rest: Sequence[str], parser: Parser, declared: Declaration) -> None:
    """Raises UsageError if the parser left anything over, for its first flag before other words."""
    for word in rest:
        if word.startswith("-"):
            flag = word.partition("=")[0]
            name = flag.removeprefix("--").replace("-", "_")
            if declared.others_with(name):
                raise declared.lacks(name, flag)
            raise UsageError(f"there is no flag {flag}", nearest(flag, parser.flags()))
    if rest:
        raise UsageError(f"'{rest[0]}' is one word too many", f"{parser.prog} --help explains")
