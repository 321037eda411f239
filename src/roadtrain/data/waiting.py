"""Waiting for a batch that feeders alone have: whoever waits says for whom and for how long, and does not wait for ever."""

from __future__ import annotations

from collections.abc import Callable, Collection

from roadtrain.errors import RunFailed
from roadtrain.view import PeerId

ALONE_S = 30.0
"""How long it is waited while there is no feeder."""
NOBODY = "whoever has this run's data is gone: no batch can come"
SAID_S = (5.0, 60.0)
"""After how long it is said first, and how often at least from then on; in between, after twice as long each time."""


class Waiting:
    """`what`: is waited for, in words; `say` tells a person. `alone_s`: how long without any feeder."""

    def __init__(self, what: str = "", say: Callable[[str], None] | None = None, alone_s: float = ALONE_S) -> None:
        self._what, self._say, self._alone_s = what, say, alone_s

    def begin(self, now: float) -> Wait:
        """Somebody begins to wait."""
        return Wait(self, now)

    def tell(self, feeders: Collection[PeerId], waited_s: float) -> None:
        """For whom, and for how long."""
        if self._say is not None:
            whom = f"of {', '.join(sorted(feeders))}" if feeders else "of nobody yet: no feeder is there"
            self._say(f"waits for {self._what} for {waited_s:.0f} s, {whom}")

    def given_up(self) -> RunFailed:
        """There was no feeder for too long."""
        if not self._what:
            return RunFailed(NOBODY)
        return RunFailed(f"nobody has fed {self._what} for {self._alone_s:.0f} s", "is rt.feed running?")

    @property
    def alone_s(self) -> float:
        """See the class."""
        return self._alone_s


class Wait:
    """For one batch, from `now` on."""

    def __init__(self, waiting: Waiting, now: float) -> None:
        self._waiting = waiting
        self._began = self._seen = now
        self._say_s = SAID_S[0]

    def look(self, feeders: Collection[PeerId], now: float) -> None:
        """It has not come; these could send it. Raises RunFailed where there was none for too long."""
        self._seen = now if feeders else self._seen
        if now - self._began >= self._say_s:
            self._waiting.tell(feeders, now - self._began)
            self._say_s += min(self._say_s, SAID_S[1])
        if now - self._seen > self._waiting.alone_s:
            raise self._waiting.given_up()
