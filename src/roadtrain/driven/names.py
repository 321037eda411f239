"""Classes and functions by name, as they are imported where the model is built."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import msgspec
import torch
from torch.nn import functional

from roadtrain.errors import UsageError

SCRIPT = "roadtrain_script"
"""The module that the driver's own script, or the cells of its notebook, are on workers."""


class Name(msgspec.Struct, frozen=True, tag="name"):
    """`qualname` of `module`."""

    module: str
    qualname: str


def name_of(thing: Any, where: str) -> Name:
    """By which a class or a function is found again. `where`: what it is to the person. Raises UsageError for what has none."""
    qualname, module = getattr(thing, "__qualname__", ""), getattr(thing, "__module__", None)
    if not qualname or "<" in qualname:
        what = (
            "a lambda" if "<lambda>" in qualname else "made inside a function" if qualname else "no function or class"
        )
        raise UsageError(f"{where} is {what}, which workers cannot import", "define it at the top of the script")
    if module is None or _found(module, qualname) is not thing:
        module = next((m.__name__ for m in (torch, functional) if getattr(m, qualname, None) is thing), None)
    if module is None:
        raise UsageError(f"{where}, {qualname}, is not found under that name", "define it at the top of a module")
    return Name(SCRIPT if module == "__main__" else module, qualname)


def _found(module: str, qualname: str) -> Any:
    try:
        return functools.reduce(getattr, qualname.split("."), importlib.import_module(module))
    except (ImportError, AttributeError):
        return None


def thing_of(name: Name) -> Any:
    """The class or function. Raises UsageError where it cannot be imported."""
    try:
        return functools.reduce(getattr, name.qualname.split("."), importlib.import_module(name.module))
    except ImportError as error:
        hint = "install it on the machines, or keep it beside the script"
        raise UsageError(f"{name.module} cannot be imported for {name.qualname}: {error}", hint) from error
    except AttributeError as error:
        hint = "define it at the top, and not under a condition"
        raise UsageError(f"{name.module} has no {name.qualname}", hint) from error
