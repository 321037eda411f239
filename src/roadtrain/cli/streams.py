"""The streams of this process, whatever the shell has done to them: a closed one stands for nothing, and one that cannot be
written to any more (its reader has gone, its disk is full) ends no run.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO


class Stream(io.TextIOWrapper):
    """Text to a stream. After the first error of writing, all goes nowhere; `error` is that one."""

    error: OSError | None = None

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            return self._lost(error, len(text))

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._lost(error, 0)

    def put(self, data: bytes) -> None:
        """Bytes as they are, at once."""
        try:
            self.buffer.write(data)
            super().flush()
        except OSError as error:
            self._lost(error, 0)

    def _lost(self, error: OSError, length: int) -> int:
        self.error = self.error or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())  # what is buffered must go somewhere
        os.close(nowhere)
        return length


def secure() -> None:
    """Make this process's streams safe to write to. Before any file is opened, which would take the number of a closed one."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    for number in (1, 2):
        os.set_blocking(number, True)  # what a pipe does not take at once must wait, not be lost
    sys.stdout = sys.__stdout__ = _safe(sys.stdout, 1)
    sys.stderr = sys.__stderr__ = _safe(sys.stderr, 2)


def _safe(stream: Any, number: int) -> TextIO:
    if stream is None:  # Python found it closed
        return Stream(open(number, "wb", closefd=False), encoding="utf-8", errors="replace")
    encoding, lines = stream.encoding, stream.line_buffering
    return Stream(stream.detach(), encoding=encoding, errors="backslashreplace", line_buffering=lines)


def broken_output() -> OSError | None:
    """Why what was printed did not arrive; None when it did, or when nobody reads on, as after `| head`."""
    sys.stdout.flush()
    error = sys.stdout.error if isinstance(sys.stdout, Stream) else None
    return None if isinstance(error, BrokenPipeError) else error
