"""One end of a conversation that outlives its connections: numbered both ways, acknowledged, bounded. Sans-IO.

| a message is | that is | until |
|---|---|---|
| waiting | said, and not written on any connection | `outgoing` gives it a number |
| written | on the present connection, or on one that broke | the other end has acknowledged it |
| acknowledged | taken in there, once | |

When a connection begins, each end says up to which number it has heard; what comes after is written again, and what was heard
already is passed over. So a message is lost only with its sender. An end that has lost its memory (a coordinator that was started
again) is *fresh*: then all that was not acknowledged is numbered anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from roadtrain.errors import PeerError

Said = TypeVar("Said")
WRITTEN_MAX = 1_000
"""Messages that may be written and not acknowledged; further ones wait."""
WAITING_MAX = 20_000
"""Messages that may wait; over that the oldest that may be dropped is."""


class ChannelError(PeerError):
    """The other end does not speak as it should."""


class Channel(Generic[Said]):
    """What one end says, and up to where it has heard the other. `dropped`: messages that there was no room for."""

    def __init__(self, waiting_max: int = WAITING_MAX) -> None:
        self.heard = 0
        self.dropped = 0
        self._waiting_max = waiting_max
        self._waiting: deque[tuple[Said, bool]] = deque()
        self._written: deque[tuple[int, Said]] = deque()
        self._last = 0
        self._unwritten_from = 1

    def say(self, message: Said, *, needed: bool = True) -> None:
        """Let `message` reach the other end. One that is not `needed` may be dropped where too many wait."""
        self._waiting.append((message, needed))
        if len(self._waiting) > self._waiting_max:
            self._drop()

    def _drop(self) -> None:
        for place, (_, needed) in enumerate(self._waiting):
            if not needed:
                del self._waiting[place]
                self.dropped += 1
                return

    def say_first(self, message: Said) -> None:
        """Let `message` reach the other end before all that waits."""
        self._waiting.appendleft((message, True))

    def pending(self) -> Iterator[Said]:
        """What the other end has not acknowledged."""
        yield from (message for _, message in self._written)
        yield from (message for message, _ in self._waiting)

    @property
    def idle(self) -> bool:
        """Whether the other end has heard everything."""
        return not (self._waiting or self._written)

    # ------------------------------------------------------------------------------------------------ connections

    def connected(self, heard: int, *, fresh: bool = False) -> None:
        """A connection begins, whose other end has heard up to number `heard`; `fresh`: it knows nothing of earlier ones.

        Raises ChannelError when it says that it has heard what was never said.
        """
        if fresh:
            self.heard = self._last = 0
            self._waiting.extendleft((message, True) for _, message in reversed(self._written))
            self._written.clear()
        elif heard > self._last:
            raise ChannelError(f"the other end has heard message {heard} of {self._last}")
        else:
            self.acknowledged(heard)
        self._unwritten_from = self._written[0][0] if self._written else self._last + 1

    def outgoing(self) -> Iterator[tuple[int, Said]]:
        """What is to be written on the present connection, with its number: each once."""
        for number, message in list(self._written):
            if number >= self._unwritten_from:
                self._unwritten_from = number + 1
                yield number, message
        while self._waiting and len(self._written) < WRITTEN_MAX:
            message, _ = self._waiting.popleft()
            self._last += 1
            self._written.append((self._last, message))
            self._unwritten_from = self._last + 1
            yield self._last, message

    def acknowledged(self, heard: int) -> None:
        """The other end has heard up to number `heard`. Raises ChannelError for what was never said."""
        if heard > self._last:
            raise ChannelError(f"the other end has heard message {heard} of {self._last}")
        while self._written and self._written[0][0] <= heard:
            self._written.popleft()

    def take(self, number: int) -> bool:
        """Message `number` of the other end is here: whether it is news. Raises ChannelError when one is missing before it."""
        if number > self.heard + 1:
            raise ChannelError(f"message {number} after {self.heard}")
        news = number == self.heard + 1
        self.heard = max(self.heard, number)
        return news
