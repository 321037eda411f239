"""What the first worker of a script prints, on its way to the person: to its log, and to the terminal."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

Words = Callable[[bytes], None]
"""Shows what a script has printed."""
READ_BYTES = 65536


def relay(source: Connection, log: Path, show: Words) -> None:
    """Until its writers are gone: append what comes from `source` to `log`, and `show` it. On a thread of its own."""

    def pump() -> None:
        with source, log.open("ab", buffering=0) as file:
            while data := os.read(source.fileno(), READ_BYTES):
                with suppress(OSError):  # a full disk must not stop the script, whose words these are
                    file.write(data)
                show(data)

    threading.Thread(target=pump, name="words", daemon=True).start()


def print_to(shown: Connection, log: int) -> None:
    """Send what this process prints to `shown`, whose reader relays it; to the file `log` itself once that reader is gone."""
    os.dup2(shown.fileno(), 1)
    before = sys.stdout  # None where the person has closed it
    encoding, errors = (before.encoding, before.errors) if before is not None else ("utf-8", "strict")
    printed = io.BufferedWriter(_Printed(log))
    sys.stdout = io.TextIOWrapper(printed, encoding=encoding, errors=errors, line_buffering=True)


class _Printed(io.FileIO):
    """File descriptor 1. A script outlives whoever reads along, as workers outlive the driver of their run."""

    def __init__(self, log: int) -> None:
        super().__init__(1, "w", closefd=False)
        self._log = log

    def write(self, data: ReadableBuffer, /) -> int | None:
        try:
            return super().write(data)
        except BrokenPipeError:
            os.dup2(self._log, 1)
            return super().write(data)
