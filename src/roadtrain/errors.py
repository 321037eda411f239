"""Every error that roadtrain raises on purpose, by who is to blame.

RoadtrainError
├── UsageError      the person: a wrong flag, file or combination. One line, exit code 2
├── PeerError       another process: bytes or a message that cannot be accepted
│   └── PacketError     a packet whose header, length or checksum is wrong
├── RunFailed       the run could not go on (exit code 1)
│   ├── TakenForLost    it goes on without this worker, which may come back
│   ├── StaysAway       it goes on without this worker, which cannot come
│   └── DataFailed      its data is wrong, whichever worker reads it
└── Interrupted     the person stopped the run (exit code 130)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RoadtrainError(Exception):
    """Base of all of roadtrain's own errors. `hint`, where given, says what to do."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.trace = ""
        """What a script's own traceback says, where its error is what ended the run."""

    @property
    def __notes__(self) -> list[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What Python shows below the message of an error that nobody catches."""
        return [self.hint] if self.hint else []

    def line(self) -> str:
        """The message and its remedy in one line, as the command line prints it."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(RoadtrainError):
    """A mistake by the person: what is wrong and what to do."""

    exit_code = 2


class PeerError(RoadtrainError):
    """Another process sent what cannot be accepted."""


class PacketError(PeerError):
    """A packet that is corrupted, foreign or larger than its fragment allows. Raised before anything is allocated."""


class RunFailed(RoadtrainError):
    """The run cannot go on."""


class TakenForLost(RunFailed):
    """This worker was silent for too long, and the run goes on without it. It may come back as a newcomer."""


class StaysAway(RunFailed):
    """This worker cannot come to a run that goes on, and leaves it to the others."""


class DataFailed(RunFailed):
    """What the run is to compute cannot be made, at whichever worker: no other one need try."""


class Interrupted(RoadtrainError):
    """The person stopped the run. Its message says what is saved."""

    exit_code = 130


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that offers the known name nearest to `name`, or lists all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names)}"
