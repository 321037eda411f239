"""`roadtrain doctor`: one sentence on each thing that training needs."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from roadtrain.cli.watch import connected
from roadtrain.cli.watch_arguments import Doctor

NAME_WIDTH = 18


def doctor(command: Doctor) -> int:
    """0 if all is well, 1 if something is to be mended."""
    from roadtrain.orchestrate.examine import Check, examine

    console = Console(highlight=False)
    found: list[Check] = []
    with connected(command.on) if command.on else contextlib.nullcontext() as connection:
        for check in examine(connection, Path("runs")):
            found.append(check)
            if not command.json:
                mark = Text("ok    ", "green") if check.ok else Text("MEND  ", "bold red")
                name = Text(check.name)
                if len(check.name) >= NAME_WIDTH:
                    console.print(mark + name)
                    console.print(Padding(Text(check.detail), (0, 0, 0, 6 + NAME_WIDTH)))
                else:
                    _row(console, mark, name, check.detail)
    wrong = [check for check in found if not check.ok]
    if command.json:
        print(json.dumps({"checks": [asdict(check) for check in found]}))
    else:
        console.print(f"\n{len(wrong)} to mend" if wrong else "\nall is well")
    return 1 if wrong else 0


def _row(console: Console, mark: Text, name: Text, detail: str) -> None:
    """The detail goes on in its own column."""
    name.pad_right(NAME_WIDTH - len(name))
    first, *more = Text(detail).wrap(console, max(20, console.width - 6 - NAME_WIDTH))
    console.print(mark + name + first)
    for line in more:
        console.print(Padding(line, (0, 0, 0, 6 + NAME_WIDTH)))
