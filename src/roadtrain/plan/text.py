"""A plan as text and as tables, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from roadtrain.errors import UsageError, nearest
from roadtrain.plan.schema import OWN, SECTIONS, Plan, Value
from roadtrain.plan.settings import Setting, quote, settings

Chosen = dict[tuple[str, str], Value]
"""Values by (section, field)."""
Tables = Mapping[str, Mapping[str, object]]
"""Values by section and field, as TOML and JSON have them."""


def parse(text: str) -> Plan:
    """The plan that `text` (TOML) spells; what it leaves out has its default. Raises UsageError."""
    return from_dict(toml(text, "the plan"))


def dumps(plan: Plan) -> str:
    """The plan as TOML, one table for each section; fields that are None are left out."""
    return dumps_tables(as_dict(plan))


def dumps_tables(tables: Tables) -> str:
    """Any settings as TOML."""
    import tomli_w

    return tomli_w.dumps({s: {n: v for n, v in table.items() if v is not None} for s, table in tables.items()})


def as_dict(plan: Plan) -> dict[str, dict[str, Any]]:
    """The plan as section -> field -> value, ready for JSON (tuples become lists)."""
    return as_tables(
        {(section, name): getattr(getattr(plan, section), name) for section, name in settings()}
        | {(OWN, name): value for name, value in plan.settings.items()},
        (*SECTIONS, OWN),
    )


def differences(plan: Plan) -> dict[str, dict[str, Any]]:
    """What a plan says of our settings that is not the default."""
    plain = as_dict(Plan())
    found = {
        section: {name: value for name, value in table.items() if value != plain[section].get(name)}
        for section, table in as_dict(plan).items()
        if section in SECTIONS
    }
    return {section: table for section, table in found.items() if table}


def as_tables(chosen: Chosen, sections: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """Values as section -> field -> value, ready for JSON; `sections` are there also where they are empty."""
    tables: dict[str, dict[str, Any]] = {section: {} for section in sections}
    for (section, name), value in chosen.items():
        tables.setdefault(section, {})[name] = list(value) if isinstance(value, tuple) else value
    return tables


def from_dict(tables: Mapping[str, object]) -> Plan:
    """The plan that section -> field -> value spells; what is left out has its default. Raises UsageError.

    The target's own settings are taken as they are: whoever made the plan has checked them.
    """
    own = {(OWN, name): _plain(value) for name, value in _table(tables.get(OWN, {}), OWN, "").items()}
    return build(from_tables({s: table for s, table in tables.items() if s != OWN}, settings(), "") | own)


def build(chosen: Chosen) -> Plan:
    """The plan of these values, and of the defaults for all others."""
    tables: dict[str, dict[str, Any]] = {section: {} for section in (*SECTIONS, OWN)}
    for (section, name), value in chosen.items():
        tables[section][name] = value
    return Plan(**{section: cls(**tables[section]) for section, cls in SECTIONS.items()}, settings=tables[OWN])


def from_tables(tables: Mapping[str, object], rows: Mapping[tuple[str, str], Setting], where: str) -> Chosen:
    """Section -> field -> value, each checked by its row. `where` stands before the names in errors. Raises UsageError."""
    chosen: Chosen = {}
    sections = {section for section, _ in rows}
    for section, table in tables.items():
        if section not in sections:
            raise UsageError(f"{where}there is no section {quote(section)}", nearest(section, sections))
        known = {name for in_section, name in rows if in_section == section}
        for name, value in _table(table, section, where).items():
            if name not in known:
                raise UsageError(f"{where}there is no {quote(name)} in section '{section}'", nearest(name, known))
            chosen[section, name] = rows[section, name].accept(value, f"{where}{section}.{name}")
    return chosen


def toml(text: str, where: str) -> dict[str, object]:
    """The tables of `text`. Raises UsageError that says `where`."""
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where} is not TOML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UsageError(f"{where} is not TOML: nested too deeply") from None


def _table(table: object, section: str, where: str) -> Mapping[str, object]:
    if not isinstance(table, Mapping):
        raise UsageError(f"{where}{section} is {quote(table)}; wanted a table of settings", f"write [{section}]")
    return cast(Mapping[str, object], table)


def _plain(value: object) -> Value:
    return tuple(cast(list[str], value)) if isinstance(value, list) else cast(Value, value)
