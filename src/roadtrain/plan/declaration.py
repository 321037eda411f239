"""What a target declares: settings of its own, defaults for ours, and a check.

A job is a function `make(plan, *, ...)` that makes a task; its keyword-only parameters are its settings (see `signature`).
Its module may have `DEFAULTS` (section -> field -> value) and `check(plan, settings)`, which raises UsageError for what cannot
be run before anything starts. A recipe is a job. A script declares nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any, cast

from roadtrain.errors import UsageError, nearest
from roadtrain.plan.importing import check_module, check_script, import_file, import_module
from roadtrain.plan.schema import Plan
from roadtrain.plan.settings import Setting, settings
from roadtrain.plan.signature import as_path, settings_of
from roadtrain.plan.target import RECIPES, Target

Make = Callable[..., object]
Check = Callable[[Plan, Mapping[str, Any]], None]
Defaults = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Declaration:
    """`settings`: its own, by name. `defaults`: what it prefers of ours. `make`: makes the task; None for a script."""

    target: str
    settings: Mapping[str, Setting] = field(default_factory=dict[str, Setting])
    defaults: Defaults = field(default_factory=dict[str, Mapping[str, object]])
    make: Make | None = None
    checker: Check | None = None

    @property
    def rows(self) -> dict[tuple[str, str], Setting]:
        """All settings of a plan with this target, ours before its own, by (section, field)."""
        return settings() | {row.key: row for row in self.settings.values()}

    def arguments(self, plan: Plan) -> dict[str, Any]:
        """What `make` is given beside the plan. Raises UsageError for what it does not know."""
        for name in plan.settings:
            if name not in self.settings:
                raise self.lacks(name, f"'{name}'")
        values = {name: plan.settings.get(name, row.default) for name, row in self.settings.items()}
        return {name: as_path(value) if self.settings[name].is_path else value for name, value in values.items()}

    def check(self, plan: Plan) -> None:
        """Raises UsageError for the first thing that the target itself finds wrong."""
        arguments = self.arguments(plan)
        if self.checker is not None:
            self.checker(plan, arguments)

    @staticmethod
    def others_with(name: str) -> list[str]:
        """Recipes that have the setting `name`."""
        return [recipe for recipe in RECIPES if name in declaration_of(recipe).settings]

    def lacks(self, name: str, shown: str, where: str = "") -> UsageError:
        """The refusal of a setting that is none of the target's; `shown`: as the person wrote it."""
        message = f"{where}{self.target or 'the plan'} has no {shown}"
        if others := self.others_with(name):
            return UsageError(message, f"it is a setting of {' and '.join(others)}")
        return UsageError(message, nearest(name, self.settings) if self.settings else "it has no settings of its own")


@cache
def declaration_of(target: str) -> Declaration:
    """What `target` declares; a job's file is read for it, once. Raises UsageError where it cannot be."""
    if not target:
        return Declaration("")
    found = Target.parse(target)
    if found.kind == "module":
        check_module(found.module)
    elif found.kind == "script" and found.file is not None:
        check_script(found.file)
    else:
        module = import_file(found.file) if found.file is not None else import_module(found.module)
        return _of_job(found, module)
    return Declaration(target)


def _of_job(target: Target, module: ModuleType) -> Declaration:
    make = getattr(module, target.function, None)
    if not inspect.isroutine(make):
        own = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        hint = nearest(target.function, own) if own else "it has no function at all"
        raise UsageError(f"{target.place} has no function '{target.function}'", hint)
    defaults: object = getattr(module, "DEFAULTS", {})
    if not isinstance(defaults, Mapping):
        raise UsageError(f"DEFAULTS of {target.place} is no table", 'write {"job": {"steps": 100}}')
    own = settings_of(make, str(target))
    return Declaration(str(target), own, cast(Defaults, defaults), make, getattr(module, "check", None))
