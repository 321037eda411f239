"""How far a run is, as the command shows it; in a notebook in one line that is written again and again."""

from __future__ import annotations

import sys
from types import TracebackType

from roadtrain.cli.run_progress import RunProgress
from roadtrain.launch.run_request import RunRequest
from roadtrain.launch.snapshot import RunSnapshot
from roadtrain.membership.phase import Phase

WIDTH = 100


def in_notebook() -> bool:
    """Whether this process shows what it does in cells."""
    shell = getattr(sys.modules["__main__"], "get_ipython", None)
    return shell is not None and hasattr(shell(), "kernel")


class Progress:
    """Progress of `order`."""

    def __init__(self, order: RunRequest) -> None:
        self._cell = in_notebook()
        self._screen = RunProgress(order, quiet=False, bar=not self._cell)
        self._line = ""

    def __enter__(self) -> Progress:
        self._screen.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._screen.__exit__(kind, error, trace)
        if self._line:
            print(flush=True)

    def watch(self, now: RunSnapshot) -> None:
        """Show where the run stands."""
        self._screen.watch(now)
        if self._cell and now.phase in (Phase.TRAINING, Phase.OVER):
            line = self._screen.figures(now)
            if line != self._line:
                self._line = line
                print(f"\r{line:<{WIDTH}}", end="", flush=True)

    def words(self, data: bytes) -> None:
        """What the model prints as it is trained."""
        self._screen.words(data)

    def say(self, text: str) -> None:
        """Something a person should know."""
        print(text, file=sys.stderr, flush=True)
