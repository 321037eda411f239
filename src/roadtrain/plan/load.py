"""A plan from its sources and back: defaults < the recipe's defaults < TOML < environment < flags.

Environment: a field is `ROADTRAIN_` and its flag in capitals (`--fragment-mb`: ROADTRAIN_FRAGMENT_MB), or its section
and field where it has no flag (ROADTRAIN_WATCH_KEEP). A variable that is set but empty counts as not set. Fields that
hold several values separate them as PATH does (`:`, on Windows `;`). A variable with the prefix that is no setting is
refused, so that a typing mistake cannot pass unnoticed; values of such variables are never shown.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from roadtrain.errors import UsageError, nearest
from roadtrain.plan.schema import SECTIONS, Plan
from roadtrain.plan.settings import PREFIX, Value, quote, settings

RESERVED = frozenset({"ROADTRAIN_TOKEN", "ROADTRAIN_SEEDS"})
"""Variables with our prefix that are no settings: the token is a secret, read by the door that needs it; the seeds are how
many schedules `make test-all` plays, and the commands that its tests start see them too."""

Chosen = dict[tuple[str, str], Value]


def load(
    recipe_defaults: Mapping[str, Mapping[str, object]],
    file: Path | None,
    environment: Mapping[str, str],
    flags: Mapping[tuple[str, str], object],
) -> Plan:
    """The plan that these sources make together, later over earlier; `flags` are by (section, field).

    Values have the right types afterwards; whether they make sense together is the question of `check`.
    Raises UsageError for an unknown name, a wrong type, and a file that cannot be read.
    """
    chosen = _from_tables(recipe_defaults, "the recipe's defaults: ")
    if file is not None:
        chosen |= _from_tables(_toml(_text_of(file), str(file)), f"{file}: ")
    chosen |= _from_environment(environment)
    chosen |= {key: settings()[key].accept(value, settings()[key].label) for key, value in flags.items()}
    return _build(chosen)


def parse(text: str) -> Plan:
    """The plan that `text` (TOML) spells; what it leaves out has its default. Raises UsageError."""
    return from_dict(_toml(text, "the plan"))


def dumps(plan: Plan) -> str:
    """The plan as TOML, one table for each section; fields that are None are left out."""
    import tomli_w

    chosen = {
        section: {name: value for name, value in table.items() if value is not None}
        for section, table in as_dict(plan).items()
    }
    return tomli_w.dumps(chosen)


def as_dict(plan: Plan) -> dict[str, dict[str, Any]]:
    """The plan as section -> field -> value, ready for JSON (tuples become lists)."""
    tables: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for section, name in settings():
        value = getattr(getattr(plan, section), name)
        tables[section][name] = list(cast(tuple[str, ...], value)) if isinstance(value, tuple) else value
    return tables


def from_dict(tables: Mapping[str, object]) -> Plan:
    """The plan that section -> field -> value spells; what is left out has its default. Raises UsageError."""
    return _build(_from_tables(tables, ""))


def _build(chosen: Chosen) -> Plan:
    tables: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for (section, name), value in chosen.items():
        tables[section][name] = value
    return Plan(**{section: cls(**tables[section]) for section, cls in SECTIONS.items()})


def _from_tables(tables: Mapping[str, object], where: str) -> Chosen:
    """Section -> field -> value, each checked. `where` stands before the names in errors."""
    chosen: Chosen = {}
    for section, table in tables.items():
        if section not in SECTIONS:
            raise UsageError(f"{where}there is no section {quote(section)}", nearest(section, SECTIONS))
        if not isinstance(table, Mapping):
            raise UsageError(f"{where}{section} is {quote(table)}; wanted a table of settings", f"write [{section}]")
        known = {name for in_section, name in settings() if in_section == section}
        for name, value in cast(Mapping[str, object], table).items():
            if name not in known:
                raise UsageError(f"{where}there is no {quote(name)} in section '{section}'", nearest(name, known))
            chosen[section, name] = settings()[section, name].accept(value, f"{where}{section}.{name}")
    return chosen


def _from_environment(environment: Mapping[str, str]) -> Chosen:
    known = {setting.variable: setting for setting in settings().values()}
    chosen: Chosen = {}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(PREFIX) or variable in RESERVED:
            continue
        if variable not in known:
            hint = nearest(variable, known.keys() | RESERVED)
            raise UsageError(f"the environment variable {variable} is not a setting of roadtrain", hint)
        setting = known[variable]
        if text and setting.many:
            chosen[setting.key] = setting.accept([part for part in text.split(os.pathsep) if part], variable)
        elif text:
            chosen[setting.key] = setting.from_text(text, variable)
    return chosen


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"there is no plan file {file}", "give --plan the path of a TOML file") from None
    except OSError as error:
        raise UsageError(f"the plan file {file} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"the plan file {file} is not UTF-8 text") from None


def _toml(text: str, where: str) -> dict[str, object]:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where} is not TOML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UsageError(f"{where} is not TOML: nested too deeply") from None
