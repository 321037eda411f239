"""What the first worker of a script prints, on its way to the person: to its log, and to the terminal."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

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
