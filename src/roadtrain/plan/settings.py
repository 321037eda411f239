"""Every setting of the plan tree as one row: its name, kind, flag and variable, and how a value is accepted.

The TOML reader, the environment and the command line all accept values here, so that the three refuse the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

from roadtrain.errors import UsageError, nearest
from roadtrain.plan.schema import SECTIONS, Value

PREFIX = "ROADTRAIN_"
RESERVED = frozenset({"ROADTRAIN_TOKEN", "ROADTRAIN_TICKET", "ROADTRAIN_SEEDS"})
"""Variables with our prefix that are no settings: the token is a secret, read by the door that needs it; the seeds are how
many schedules `make test-all` plays, and the commands that its tests start see them too."""
COMMAND_FLAGS = frozenset(
    f"--{name}"
    for name in [
        "help",
        "version",
        "plan",
        "out",
        "json",
        "debug",
        "resume",
        "on",
        "send",
        "virtual",
        "seeds",
        "target-loss",
    ]
)
"""Flags of the commands that are no settings."""
LONGEST_SHOWN = 60
"""Characters of a refused value that an error quotes."""
WANTED: dict[type, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One field of one section. `many`: a tuple of `kind`. `optional`: None is a value (nothing chosen). `is_path`: text that
    becomes an absolute path. `auto`: the value that the word auto stands for; None where it is no word of this setting."""

    section: str
    name: str
    kind: type
    many: bool
    optional: bool
    default: Value
    help: str
    flag: str | None
    choices: tuple[str, ...]
    metavar: str | None
    is_path: bool = False
    auto: Value = None

    @property
    def key(self) -> tuple[str, str]:
        """Its place in the tree: (section, field)."""
        return self.section, self.name

    @property
    def label(self) -> str:
        """What a person calls it: the flag, or `section.field` where it has none."""
        return self.flag or f"{self.section}.{self.name}"

    @property
    def flags(self) -> tuple[str, ...]:
        """Every spelling on the command line: a switch can be turned off too."""
        if self.flag is None:
            return ()
        return (self.flag, f"--no-{self.flag.removeprefix('--')}") if self.kind is bool else (self.flag,)

    @property
    def keyword(self) -> str:
        """Its name in a script: after the flag, or after section and field where it has no flag."""
        return self.flag.removeprefix("--").replace("-", "_") if self.flag else f"{self.section}_{self.name}"

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return PREFIX + self.keyword.upper()

    def accept(self, value: object, where: str) -> Value:
        """The typed `value` as the tree holds it. Raises UsageError with `where`, the value and what is wanted."""
        if value is None and self.optional:
            return None
        if not self.many:
            return self._one(value, where)
        if not isinstance(value, list | tuple):
            raise UsageError(f"{where} is {quote(value)}; wanted a list of {WANTED[self.kind]}")
        return tuple(cast(str, self._one(item, where)) for item in cast(list[object], value))

    def from_text(self, text: str, where: str) -> Value:
        """One value written as text. Raises UsageError as `accept` does."""
        if self.auto is not None and text.strip() == "auto":
            return self.auto
        try:
            value = WORDS[text.strip().lower()] if self.kind is bool else self.kind(text)
        except (ValueError, KeyError):
            raise self._refusal(text, where) from None
        if self.auto is not None and value == self.auto:
            raise self._refusal(text, where)
        return self._one(value, where)

    def _one(self, value: object, where: str) -> Value:
        if self.kind is float and type(value) is int:
            try:
                value = float(value)
            except OverflowError:
                raise self._refusal(value, where) from None
        if self.auto is not None and value == "auto":
            return self.auto
        if type(value) is not self.kind:
            raise self._refusal(value, where)
        if self.choices and value not in self.choices:
            raise UsageError(f"{where} cannot be {quote(value)}", nearest(str(value), self.choices))
        return str(Path(cast(str, value)).expanduser().absolute()) if self.is_path else cast(Value, value)

    def _refusal(self, value: object, where: str) -> UsageError:
        wanted = WANTED[self.kind] + (" from 1, or auto" if self.auto is not None else "")
        return UsageError(f"{where} is {quote(value)}; wanted {wanted}")


def quote(value: object) -> str:
    """`value` in one line that is not too long, for an error."""
    try:
        shown = repr(value)
    except ValueError:  # an int of more digits than Python prints
        return "a number of thousands of digits"
    return shown if len(shown) <= LONGEST_SHOWN else shown[:LONGEST_SHOWN] + "..."


@cache
def settings() -> dict[tuple[str, str], Setting]:
    """All settings by (section, field), in the order of the tree."""
    rows = (row for section, cls in SECTIONS.items() for row in _rows(section, cls))
    return {row.key: row for row in rows}


def _rows(section: str, cls: type) -> list[Setting]:
    hints = get_type_hints(cls)
    rows: list[Setting] = []
    for item in fields(cls):
        hint: Any = hints[item.name]
        parts: tuple[Any, ...] = get_args(hint)
        many = get_origin(hint) is tuple
        rows.append(
            Setting(
                section=section,
                name=item.name,
                kind=parts[0] if parts else hint,
                many=many,
                optional=type(None) in parts,
                default=cast(Value, item.default),
                help=item.metadata["help"],
                flag=item.metadata["flag"],
                choices=item.metadata["choices"],
                metavar=item.metadata["metavar"],
                auto=item.metadata["auto"],
            )
        )
    return rows
