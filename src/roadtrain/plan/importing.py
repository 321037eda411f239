"""The person's own modules, as jobs and scripts need them: found behind the standard library, so that a file called queue.py
beside a job does no harm, and before other packages."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import zlib
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from roadtrain.errors import UsageError
from roadtrain.plan.plugin import told

T = TypeVar("T")

PACKAGES = ("site-packages", "dist-packages")
"""Folders in which other people's packages are."""


def add_folder(folder: Path) -> None:
    """Have modules of `folder` found, behind the standard library and before other packages."""
    text = str(folder)
    if text not in sys.path:
        others = (at for at, place in enumerate(sys.path) if Path(place).name in PACKAGES)
        sys.path.insert(next(others, len(sys.path)), text)
    importlib.invalidate_caches()  # of a folder in which a file is new


def import_file(file: Path) -> ModuleType:
    """The module of a Python file, which is run once. What it prints goes to stderr.

    Its name is the file's, so that other processes can import it too, unless another module has that name.
    Raises UsageError that names the file where it cannot be read or run.
    """
    if not file.is_file():
        raise UsageError(f"there is no file {file}", "write the path of a Python file")
    add_folder(file.parent)
    name = _name_of(file)
    known = sys.modules.get(name)
    if known is not None:
        return known
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        with _careful(str(file)):
            spec.loader.exec_module(module)
    except UsageError:
        sys.modules.pop(name, None)
        raise
    return module


def import_module(name: str) -> ModuleType:
    """The module `name`, also of the folder in which the command is. Raises UsageError where it cannot be imported."""
    module = _looked_for(name, importlib.import_module)
    if module is None:
        raise _no_module(name)
    return module


def check_script(file: Path) -> None:
    """Raises UsageError where `file` is no Python that could be run. Runs nothing."""
    try:
        compile(file.read_bytes(), str(file), "exec")
    except FileNotFoundError:
        raise UsageError(f"there is no file {file}", "write the path of a Python script") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    except SyntaxError as error:
        raise _not_python(str(file), error) from None
    except ValueError as error:
        raise UsageError(f"{file} is not Python: {error}") from None


def check_module(name: str) -> None:
    """Raises UsageError where there is no module `name` that could be run. Runs nothing but the packages it is in."""
    spec = _looked_for(name, importlib.util.find_spec)
    if spec is not None and spec.submodule_search_locations is not None:  # a package is run by its __main__
        spec = _looked_for(f"{name}.__main__", importlib.util.find_spec)
    if spec is None:
        raise _no_module(name)


def _looked_for(name: str, look: Callable[[str], T]) -> T | None:
    """What `look` finds by a module's name, also in the current folder; None where there is no such module."""
    add_folder(Path.cwd())
    try:
        with _careful(f"the module {name}"):
            return look(name)
    except UsageError as error:
        if isinstance(error.__cause__, ModuleNotFoundError) and _is_missing(name, error.__cause__):
            return None
        raise


def _no_module(name: str) -> UsageError:
    return UsageError(f"there is no module {name}", f"it is looked for in {Path.cwd()} too")


@contextlib.contextmanager
def _careful(what: str) -> Generator[None]:
    """Somebody else's code at work: what it prints goes to stderr, what it raises becomes a UsageError."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except UsageError:
        raise
    except SyntaxError as error:
        raise _not_python(error.filename or what, error) from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"{what} cannot be run: {told(error)}") from error


def _not_python(what: str, error: SyntaxError) -> UsageError:
    return UsageError(f"{what} is not Python: {error.msg} (line {error.lineno})")


def _name_of(file: Path) -> str:
    """The file's own name where an import finds the file by it, else one that no other module has."""
    if file.stem.isidentifier() and file.stem not in sys.builtin_module_names:
        known = sys.modules.get(file.stem)
        if known is not None:
            return file.stem if getattr(known, "__file__", None) == str(file) else _other_name(file)
        spec = importlib.util.find_spec(file.stem)
        if spec is not None and spec.origin == str(file):
            return file.stem
    return _other_name(file)


def _other_name(file: Path) -> str:
    return f"roadtrain_job_{zlib.crc32(os.fsencode(file)):08x}"


def _is_missing(name: str, error: ModuleNotFoundError) -> bool:
    """Whether it is the module itself, or a package it is in, that is missing: not one that it imports."""
    return error.name is not None and f"{name}.".startswith(f"{error.name}.")
