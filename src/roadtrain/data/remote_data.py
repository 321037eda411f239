"""Data that feeders alone have, and that are known by a name at a coordinator: whoever takes them needs nothing of them."""

from __future__ import annotations

import atexit
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from roadtrain.batches.work import Made
from roadtrain.data.feed_client import LOOK_S, FeedClient
from roadtrain.data.line import FeedLine
from roadtrain.data.samples import Upcoming
from roadtrain.data.waiting import Waiting
from roadtrain.errors import RoadtrainError, RunFailed
from roadtrain.membership.sharing import INCARNATION, Offer, difference
from roadtrain.view import PeerId, Place

SOURCE = "data"
"""What works of such data name as their source."""
Hear = Callable[[Mapping[PeerId, Place], "Offer | None"], None]
"""Is told which feeders there are, and what they feed."""


class Meeting(Protocol):
    """Where a taker, `name`, meets feeders: its `line` to them, and whoever says which there are."""

    name: PeerId
    line: FeedLine

    def start(self, hear: Hear) -> None:
        """Be there. `hear` is called on another thread."""
        ...

    def error(self) -> RoadtrainError | None:
        """Why it has ended; None while it goes on."""
        ...

    def close(self) -> None: ...


class RemoteData:
    """The data `name`, as `rt.remote_data` makes it. Nothing is opened before they are used first; `close` ends it."""

    def __init__(self, name: str, meet: Callable[[], Meeting], wait_s: float) -> None:
        """`meet` opens the connection; `wait_s`: how long it is waited while nobody feeds them."""
        self.name = name
        self._meet, self._wait_s = meet, wait_s
        self._waiting = Waiting(f"data {name!r}", _say, wait_s)
        self._news = threading.Condition()
        self._meeting: Meeting | None = None
        self._client: FeedClient | None = None
        self._offer: Offer | None = None
        self._feeders: Mapping[PeerId, Place] = {}
        self._over: RunFailed | None = None

    def offer(self) -> Offer:
        """What they are, as their feeders say; these are waited for. Raises RunFailed where none comes, UsageError where the
        ticket does not let in."""
        self._open()
        with self._news:
            wait = self._waiting.begin(time.monotonic())
            while self._offer is None:
                self._look()
                wait.look(self._feeders, time.monotonic())
                self._news.wait(LOOK_S)
            return self._offer

    def __len__(self) -> int:
        """Samples. Raises as `offer`, and TypeError of a stream."""
        size = self.offer().size
        if size is None:
            raise TypeError("a stream has no length")
        return size

    def take(self, upcoming: Upcoming) -> Made:
        """The batch of the first of `upcoming(n)`. Raises RunFailed where nobody has it any more."""
        client = self._open()
        self._look()
        return client.take(SOURCE, upcoming, None)

    def fail(self, why: str) -> None:
        """Whoever waits for them waits no longer. Any thread may call."""
        with self._news:
            self._over = RunFailed(why)
            client = self._client
        if client is not None:
            client.fail(why)

    def close(self) -> None:
        """Take no more; what is taken later opens it again."""
        meeting, client = self._meeting, self._client
        self._meeting = self._client = None
        if meeting is not None and client is not None:
            atexit.unregister(self.close)
            meeting.close()
            client.close()

    # --------------------------------------------------------------------------------------------------------------

    def _open(self) -> FeedClient:
        """The line to the feeders."""
        if self._client is None or self._meeting is None:
            self._meeting = self._meet()
            self._client = FeedClient(self._meeting.line, waiting=self._waiting)
            self._client.start(self._meeting.name, INCARNATION)
            self._meeting.start(self._hear)
            atexit.register(self.close)
        return self._client

    def _look(self) -> None:
        """Raises what has ended it, if anything has."""
        error = None if self._meeting is None else self._meeting.error()
        if self._over is not None or error is not None:
            raise self._over or error or RunFailed("over")

    def _hear(self, feeders: Mapping[PeerId, Place], offer: Offer | None) -> None:
        """Called on another thread."""
        client = self._client
        if self._offer is not None and offer is not None and difference(offer, self._offer):
            self.fail(f"the data {self.name!r} are others now: {difference(self._offer, offer)}")
            return
        with self._news:
            self._offer, self._feeders = offer or self._offer, feeders
            self._news.notify_all()
        if client is not None:
            client.see(feeders)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
