"""Others' attributes, changed for a while."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any


def replace(hooks: ExitStack, owner: type, name: str, changed: Callable[[Any], Any]) -> None:
    """`owner.name` becomes `changed` of itself until `hooks` are closed; then it is the very object that it was."""
    original = vars(owner)[name]
    hooks.callback(setattr, owner, name, original)
    setattr(owner, name, changed(original))
