"""A plan from its sources: defaults < the target's < keywords in a script < TOML < environment < flags.

Environment: a field is `ROADTRAIN_` and its flag in capitals (`--fragment-mb`: ROADTRAIN_FRAGMENT_MB), or its section
and field where it has no flag (ROADTRAIN_WATCH_KEEP). A variable that is set but empty counts as not set. Fields that
hold several values separate them as PATH does (`:`, on Windows `;`). A variable with the prefix that is no setting is
refused, so that a typing mistake cannot pass unnoticed; values of such variables are never shown.

A script's keywords are known only in its workers, so what was chosen before it starts is kept apart from the plan: `choose`,
then `complete` or, in the script, `with_keywords`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from roadtrain.errors import UsageError, nearest
from roadtrain.plan.declaration import Declaration, declaration_of
from roadtrain.plan.plugin import absolute
from roadtrain.plan.schema import OWN, Plan
from roadtrain.plan.settings import PREFIX, RESERVED, Setting, settings
from roadtrain.plan.text import Chosen, Tables, as_tables, build, from_tables, toml

FILES = (("sync", "strategy"), ("codec", "up"), ("codec", "down"))
"""Settings that may name a Python file."""
TARGET = (("job", "target"), ("job", "arguments"))
"""Settings that the command line's words make."""
SETTLED = ("place", "simulate", "layout")
"""Sections that are settled when a script begins, as its workers have been started by then."""


def load(
    target: str, file: Path | None, environment: Mapping[str, str], flags: Mapping[tuple[str, str], object]
) -> Plan:
    """The plan of `target` that these sources make together, later over earlier; `flags` are by (section, field).

    Values have the right types afterwards; whether they make sense together is the question of `check`.
    Raises UsageError for an unknown name, a wrong type, and a file that cannot be read.
    """
    return complete(choose(target, [] if file is None else [file], environment, flags))


def choose(
    target: str,
    files: Sequence[Path],
    environment: Mapping[str, str],
    flags: Mapping[tuple[str, str], object],
    arguments: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """What the sources say, by section and field, and nothing else but the target and its arguments.

    Later `files` win over earlier ones. Raises UsageError as `load` does.
    """
    declared = declaration_of(target)
    named: Chosen = {("job", "target"): target, ("job", "arguments"): tuple(arguments)}
    chosen = dict(named)
    for file in files:
        chosen |= _of_tables(toml(_text_of(file), str(file)), declared, f"{file}: ")
    chosen |= _of_environment(environment, declared)
    rows = declared.rows
    for key, value in flags.items():
        chosen[key] = rows[key].accept(value, rows[key].label)
    return as_tables(_with_absolute_paths(chosen | named))


def complete(chosen: Tables) -> Plan:
    """The plan of what was chosen, over its target's defaults. Raises UsageError."""
    declared = declaration_of(str(chosen.get("job", {}).get("target", "")))
    preferred = from_tables(declared.defaults, declared.rows, f"DEFAULTS of {declared.target}: ")
    own = {row.key: row.default for row in declared.settings.values()}
    return build(_with_absolute_paths(own | preferred | _of_tables(chosen, declared, "")))


def with_keywords(keywords: Mapping[str, object], chosen: Tables) -> Plan:
    """The plan of a script: what was chosen before it began, over its own keywords, which are spelt as flags are.

    Raises UsageError for a keyword that is none, and for a value of the wrong type.
    """
    rows = {row.keyword: row for row in settings().values()}
    open_ones = {name: row for name, row in rows.items() if row.section not in SETTLED and row.key not in TARGET}
    said: Chosen = {}
    for name, value in keywords.items():
        if name in rows and name not in open_ones:
            raise UsageError(f"{name} is settled before a script begins", f"give {rows[name].label} to roadtrain run")
        if name not in rows:
            raise UsageError(f"there is no keyword {name}", nearest(name, open_ones))
        said[rows[name].key] = rows[name].accept(value, name)
    return build(_with_absolute_paths(said | from_tables(chosen, settings(), "")))


def _of_tables(tables: Mapping[str, object], declared: Declaration, where: str) -> Chosen:
    """As `from_tables`, and a setting that another target has is refused by saying so."""
    own = tables.get(OWN)
    if isinstance(own, Mapping):
        for name in cast(Mapping[str, object], own):
            if name not in declared.settings:
                raise declared.lacks(name, f"'{name}'", where)
        if not own:
            tables = {section: table for section, table in tables.items() if section != OWN}
    return from_tables(tables, declared.rows, where)


def _of_environment(environment: Mapping[str, str], declared: Declaration) -> Chosen:
    known = {row.variable: row for row in declared.rows.values()}
    chosen: Chosen = {}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(PREFIX) or variable in RESERVED:
            continue
        if variable not in known:
            raise _unknown_variable(variable, declared, known)
        row = known[variable]
        if text and row.key in TARGET:
            raise UsageError(f"{variable} says nothing: the command line does", "unset it, and write the target there")
        if text and row.many:
            parts = [row.from_text(part, variable) for part in text.split(os.pathsep) if part]
            chosen[row.key] = row.accept(parts, variable)
        elif text:
            chosen[row.key] = row.from_text(text, variable)
    return chosen


def _unknown_variable(variable: str, declared: Declaration, known: Mapping[str, Setting]) -> UsageError:
    name = variable.removeprefix(PREFIX).lower()
    if declared.others_with(name):
        return declared.lacks(name, variable)
    hint = nearest(variable, known.keys() | RESERVED)
    return UsageError(f"the environment variable {variable} is not a setting of roadtrain", hint)


def _with_absolute_paths(chosen: Chosen) -> Chosen:
    found = {key: absolute(str(chosen[key])) for key in FILES if key in chosen}
    return chosen | found


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"there is no plan file {file}", "give --plan the path of a TOML file") from None
    except OSError as error:
        raise UsageError(f"the plan file {file} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"the plan file {file} is not UTF-8 text") from None
