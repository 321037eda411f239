"""A function's keyword-only parameters as settings: the type, the help and the default of each.

def make(plan, *, width: Annotated[int, "width of the hidden layer"] = 64, data: tuple[Path, ...] = ()): ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from roadtrain.errors import UsageError
from roadtrain.plan.schema import OWN
from roadtrain.plan.settings import COMMAND_FLAGS, RESERVED, Setting, settings

KINDS = (int, float, str, bool)
EXAMPLE = 'width: Annotated[int, "width of the hidden layer"] = 64'


def settings_of(make: Callable[..., object], where: str) -> dict[str, Setting]:
    """A row for each keyword-only parameter, by name. `where` names the function in errors.

    Raises UsageError where the function takes no plan, and for a parameter that cannot be a setting.
    """
    parameters = inspect.signature(make).parameters
    _check_positional(list(parameters.values()), where)
    own = {name: one for name, one in parameters.items() if one.kind is one.KEYWORD_ONLY}
    hints = _hints(make, {name: one.annotation for name, one in own.items()}, where)
    return {name: _row(one, hints.get(name), f"{where}: '{name}'") for name, one in own.items()}


def _check_positional(parameters: list[inspect.Parameter], where: str) -> None:
    """The plan is the only one that has to be given."""
    first, *others = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)] or [
        None
    ]
    if first is None and not any(one.kind is one.VAR_POSITIONAL for one in parameters):
        raise UsageError(f"{where} takes no plan", "write make(plan, *, ...)")
    for one in others:
        if one is not None and one.default is one.empty:
            raise UsageError(f"{where} wants '{one.name}' beside the plan", "write make(plan, *, ...)")


def _hints(make: Callable[..., object], annotations: Mapping[str, object], where: str) -> dict[str, Any]:
    """The types, also where annotations are text. Only these are read: others may name what is there for type checkers."""
    given = {name: note for name, note in annotations.items() if note is not inspect.Parameter.empty}
    names = getattr(inspect.unwrap(make), "__globals__", {})
    try:
        return get_type_hints(type("Own", (), {"__annotations__": given}), globalns=names, include_extras=True)
    except Exception as error:  # an annotation is any code
        raise UsageError(f"{where}: a type cannot be read: {error}", f"write {EXAMPLE}") from None


def _row(parameter: inspect.Parameter, hint: Any, where: str) -> Setting:
    if parameter.default is parameter.empty:
        raise UsageError(f"{where} has no default", f"write {EXAMPLE}")
    told = ""
    if get_origin(hint) is Annotated:
        hint, *notes = get_args(hint)
        told = next((note for note in notes if isinstance(note, str)), "")
    optional, hint = _without_none(hint)
    many = get_origin(hint) is tuple and get_args(hint)[1:] == (Ellipsis,)
    one = get_args(hint)[0] if many else hint
    choices = get_args(one) if get_origin(one) is Literal else ()
    kind = str if one is Path or choices else one
    if kind not in KINDS or not all(isinstance(choice, str) for choice in choices):
        raise UsageError(f"{where} has no type that a flag can have", f"write int, float, str, bool or Path: {EXAMPLE}")
    row = Setting(
        section=OWN,
        name=parameter.name,
        kind=kind,
        many=many,
        optional=optional,
        default=None,
        help=told,
        flag="--" + parameter.name.replace("_", "-"),
        choices=choices,
        metavar="FILE" if one is Path else None,
        is_path=one is Path,
    )
    _check_free(row, where)
    return replace(row, default=row.accept(as_text(parameter.default), f"{where}: the default"))


def _without_none(hint: Any) -> tuple[bool, Any]:
    """Whether None is allowed, and what else is."""
    if get_origin(hint) not in (Union, UnionType):
        return False, hint
    others = [part for part in get_args(hint) if part is not NoneType]
    return len(others) < len(get_args(hint)), others[0] if len(others) == 1 else None


def _check_free(row: Setting, where: str) -> None:
    """Raises UsageError where the setting would be spelt as one of ours."""
    taken: dict[str, str] = {name: name for name in RESERVED | COMMAND_FLAGS}
    for ours in settings().values():
        taken |= {ours.variable: ours.label} | {flag: flag for flag in ours.flags}
    for spelt in (*row.flags, row.variable):
        if spelt in taken:
            raise UsageError(f"{where} is spelt as roadtrain's own {taken[spelt]}", "rename it")


def as_text(value: object) -> object:
    """Paths as text, as a plan holds them; all else as it is."""
    if isinstance(value, tuple):
        return tuple(str(part) if isinstance(part, Path) else part for part in cast(tuple[object, ...], value))
    return str(value) if isinstance(value, Path) else value


def as_path(value: object) -> object:
    """Text as paths, as the function wants them."""
    if isinstance(value, tuple):
        return tuple(Path(str(part)) for part in cast(tuple[object, ...], value))
    return None if value is None else Path(str(value))
