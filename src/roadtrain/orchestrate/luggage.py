"""What travels with a run to other machines: the person's code, with the modules of theirs that it imports, data that a recipe
reads, and what they say besides. Paths in the plan become names in the archive."""

from __future__ import annotations

import ast
import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from roadtrain.errors import UsageError
from roadtrain.launch.run_request import RunRequest
from roadtrain.plan import Plan, Plugin, SyncSpec, Target, declaration_of

SKIPPED = ("__pycache__", "node_modules", "venv", "site-packages")
PACKAGE_BYTES_MAX = 500_000_000


@dataclass(frozen=True, slots=True)
class Luggage:
    """`order`: as it is told to other machines. `files`: what travels, by its name there."""

    order: RunRequest
    files: Mapping[str, Path]


def packed(order: RunRequest, more: Iterable[Path]) -> Luggage:
    """What travels with `order`, and `more`: files and folders that the person names. Raises UsageError."""
    target, files = Target.parse(order.plan.job.target), dict[str, Path]()
    named = str(target)
    if target.file is not None:
        files |= own_modules(target.file)
        named = str(target).replace(str(target.file), target.file.name, 1)
    elif target.kind != "recipe":
        files |= _module_files(target.module)
    for path in more:
        files |= _tree(path.absolute(), path.absolute().parent)
    plan = replace(order.plan, job=replace(order.plan.job, target=named))
    plan = _with_plugins(plan, files)
    if target.kind == "recipe":
        plan = _with_data(plan, files)
    _check_size(files)
    changed = replace(order, plan=plan, chosen=_like(order.chosen, plan) if order.is_script else order.chosen)
    return Luggage(changed, files)


def _like(chosen: Mapping[str, Mapping[str, object]], plan: Plan) -> dict[str, Mapping[str, object]]:
    """What was chosen, with the paths that `plan` has now."""
    paths: dict[str, dict[str, object]] = {
        "job": {"target": plan.job.target},
        "sync": {"strategy": plan.sync.strategy},
        "codec": {"up": plan.codec.up, "down": plan.codec.down},
    }
    return {
        section: {name: paths.get(section, {}).get(name, value) for name, value in table.items()}
        for section, table in chosen.items()
    }


# ---------------------------------------------------------------------------------------------------------------- code


def own_modules(file: Path, root: Path | None = None) -> dict[str, Path]:
    """`file`, and the modules and packages in `root` (where it is itself) that it imports, or that these do."""
    root, found, looked = root or file.parent, {file.name: file}, set[Path]()
    while left := [path for path in found.values() if path not in looked and path.suffix == ".py"]:
        for path in left:
            looked.add(path)
            for name in _imported(path):
                found |= _beside(root, name)
    return found


def _imported(file: Path) -> set[str]:
    """First parts of the modules that `file` imports. Raises UsageError where it is no Python."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise UsageError(f"{file} cannot be read as Python: {error}") from error
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def _beside(root: Path, name: str) -> dict[str, Path]:
    if (module := root / f"{name}.py").is_file():
        return {module.name: module}
    return _tree(root / name, root) if (root / name).is_dir() else {}


def _tree(path: Path, root: Path) -> dict[str, Path]:
    """A file, or all files of a folder but hidden and made ones. Raises UsageError where there is none."""
    if path.is_file():
        return {path.relative_to(root).as_posix(): path}
    if not path.is_dir():
        raise UsageError(f"there is no {path}", "give --send files or folders that are there")
    return {each.relative_to(root).as_posix(): each for each in _walk(path)}


def _walk(folder: Path) -> Iterator[Path]:
    for at, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in SKIPPED]
        yield from (Path(at) / name for name in sorted(names) if not name.startswith("."))


def _module_files(module: str) -> dict[str, Path]:
    """A module of the current folder; what is installed elsewhere is to be installed on the machines too."""
    here = Path.cwd()
    first = module.partition(".")[0]
    spec = importlib.util.find_spec(first)
    places = [Path(spec.origin)] if spec is not None and spec.origin and spec.origin.endswith(".py") else []
    if not any(place.is_relative_to(here) and not set(place.parts) & set(SKIPPED) for place in places):
        return {}
    files = _beside(here, first)
    for path in [path for path in files.values() if path.suffix == ".py"]:
        for name in _imported(path):
            files |= _beside(here, name)
    return files


# --------------------------------------------------------------------------------------------------- plugins and data


def _with_plugins(plan: Plan, files: dict[str, Path]) -> Plan:
    """Codecs and strategies of the person's own, by their names in the archive."""

    def moved(text: str) -> str:
        found = Plugin.of_chain(text)
        if found is None:
            return text
        name = f"plugins/{len(files)}/{found.file.name}"
        files[name] = found.file
        return text.replace(str(found.file), name, 1)

    codec = replace(plan.codec, up=moved(plan.codec.up), down=moved(plan.codec.down) if plan.codec.down else None)
    own = SyncSpec.parse(plan.sync.strategy).own is not None
    strategy = moved(plan.sync.strategy) if own else plan.sync.strategy
    return replace(plan, codec=codec, sync=replace(plan.sync, strategy=strategy))


def _with_data(plan: Plan, files: dict[str, Path]) -> Plan:
    """Files that a recipe reads, by their names in the archive."""
    settings: dict[str, Any] = dict(plan.settings)
    for name, setting in declaration_of(plan.job.target).settings.items():
        value = settings.get(name)
        if not (setting.is_path and value):
            continue
        moved: list[str] = []
        for text in value if isinstance(value, tuple) else (value,):
            path = Path(str(text)).expanduser().absolute()
            moved.append(f"data/{len(files)}/{path.name}")
            files[moved[-1]] = path
        settings[name] = tuple(moved) if isinstance(value, tuple) else moved[0]
    return replace(plan, settings=settings)


def _check_size(files: Mapping[str, Path]) -> None:
    size = sum(path.stat().st_size for path in files.values() if path.is_file())
    if size > PACKAGE_BYTES_MAX:
        raise UsageError(
            f"{size / 1e6:,.0f} MB would travel to every machine", "send less, or have it on the machines already"
        )
