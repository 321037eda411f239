"""What is trained, as the person names it: a built-in recipe, a job of their own, or a script.

gpt                        a recipe
my_job.py:make             a job: a function that makes a task; also package.module:make
train.py                   a script; also -m package.module
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from roadtrain.errors import UsageError, nearest

Kind = Literal["recipe", "job", "script", "module"]

RECIPES: dict[str, str] = {
    "gpt": "roadtrain.recipes.gpt",
    "digits": "roadtrain.recipes.digits",
    "xor": "roadtrain.recipes.xor",
}
"""Each recipe's name, and the module that makes it."""
FORMS = f"{', '.join(RECIPES)}, FILE.py:FUNCTION, package.module:FUNCTION, SCRIPT.py or -m package.module"
MODULE = "-m "
"""What stands before a module that is run as a script."""


@dataclass(frozen=True, slots=True)
class Target:
    """`file`, or `module` where none: where it is. `function`: what makes a job's task. `name`: of a recipe."""

    kind: Kind
    name: str = ""
    file: Path | None = None
    module: str = ""
    function: str = ""

    @classmethod
    def parse(cls, text: str) -> Target:
        """Paths become absolute, so that it means the same in every folder. Raises UsageError; opens no file."""
        text = text.strip()
        if f"{text} ".startswith(MODULE):
            return cls("module", module=_module(text.removeprefix(MODULE.strip()).strip(), text))
        if text.endswith(".py"):
            return cls("script", file=_absolute(text))
        place, colon, function = text.rpartition(":")
        if colon:
            return cls._job(place, function, text)
        if text not in RECIPES:
            close = nearest(text, RECIPES)
            raise UsageError(f"unknown recipe '{text}'", close if close.startswith("did") else f"a target is {FORMS}")
        return cls("recipe", name=text, module=RECIPES[text], function="make")

    @classmethod
    def _job(cls, place: str, function: str, text: str) -> Target:
        if not function.isidentifier():
            raise UsageError(f"'{text}' names no function", "write FILE.py:FUNCTION, such as my_job.py:make")
        if place.endswith(".py"):
            return cls("job", file=_absolute(place), function=function)
        return cls("job", module=_module(place, text), function=function)

    @property
    def is_script(self) -> bool:
        """Whether it is run as a program, with words of its own."""
        return self.kind in ("script", "module")

    @property
    def place(self) -> str:
        """Where it is: the file, or the module."""
        return str(self.file or self.module)

    def __str__(self) -> str:
        match self.kind:
            case "recipe":
                return self.name
            case "job":
                return f"{self.place}:{self.function}"
            case "script":
                return self.place
            case "module":
                return MODULE + self.module


def looks_like_target(word: str) -> bool:
    """Whether `word` can hardly be meant as anything else, as a flag's value can."""
    return word in RECIPES or word.endswith(".py") or ".py:" in word


def _absolute(file: str) -> Path:
    return Path(file).expanduser().absolute()


def _module(name: str, text: str) -> str:
    if not name or not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"'{text}' names no module", f"a target is {FORMS}")
    return name
