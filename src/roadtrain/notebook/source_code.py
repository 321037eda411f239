"""The person's code as files: their script, or what the cells of their notebook define, and the modules of theirs beside it."""

from __future__ import annotations

import ast
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from roadtrain.driven.names import SCRIPT
from roadtrain.errors import UsageError
from roadtrain.orchestrate.luggage import own_modules

DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def write_code(folder: Path) -> None:
    """Write into `folder` the code of this process's `__main__`, as the module `SCRIPT`, and the modules that it imports from
    beside it. Raises UsageError where there is none, or it is no Python."""
    main = sys.modules["__main__"]
    file, place = getattr(main, "__file__", None), folder / f"{SCRIPT}.py"
    cells = _cells(main)
    if cells is not None:
        place.write_text(definitions(cells), encoding="utf-8")
    elif file is not None and Path(file).suffix == ".py" and Path(file).is_file():
        shutil.copyfile(file, place)
    else:  # a prompt, or a program: what it has defined has no text
        place.write_text("", encoding="utf-8")
    root = Path.cwd() if file is None or cells is not None else Path(file).absolute().parent
    for name, path in own_modules(place, root).items():
        if path != place:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)


def _cells(main: object) -> list[str] | None:
    """What was run in a notebook, in its order; None where this is none."""
    shell = getattr(main, "get_ipython", None)
    cells = getattr(main, "In", None)
    return [str(cell) for cell in cells] if shell is not None and isinstance(cells, list) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def definitions(cells: Iterable[str]) -> str:
    """Imports, functions, classes and plain constants of cells, in their order. What else a cell does is left out."""
    kept: list[ast.stmt] = []
    for cell in cells:
        try:
            tree = ast.parse(cell)
        except SyntaxError:  # what is no Python was run by something else
            continue
        kept += [node for node in tree.body if isinstance(node, DEFINITIONS) or _is_constant(node)]
    future = [node for node in kept if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    body = [*future, *(node for node in kept if node not in future)]
    return ast.unparse(ast.Module(body, []))


def _is_constant(node: ast.stmt) -> bool:
    """Whether it names a value that is written out."""
    if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
        return False
    try:
        ast.literal_eval(node.value)
    except ValueError:
        return False
    return True


def refuse_in_worker(inside: bool) -> None:
    """Raises UsageError where a worker has come here by importing the script. `inside`: whether this is one."""
    if inside:
        raise UsageError(
            "the script trains when it is imported, as workers import it for the model's class",
            'put what starts the training under if __name__ == "__main__"',
        )
