"""Room for contributions that wait until their round closes: some in memory, the rest elsewhere.

A central owner of n workers would hold n models when one worker is slow. They are added in the order of the view, so that the
bits do not depend on who comes when; hence they cannot be added as they come.
"""

from __future__ import annotations

from collections.abc import Callable

from roadtrain.codec import Packet
from roadtrain.message import Push


class Room:
    """Of one peer, for all fragments that it owns. `limit`: bytes in memory, None for any number; `put_away` gives the same
    packet held elsewhere."""

    def __init__(self, limit: int | None = None, put_away: Callable[[Packet], Packet] = lambda packet: packet) -> None:
        self.held = 0
        self._limit, self._put_away = limit, put_away
        self._sizes: dict[int, int] = {}

    def take(self, push: Push) -> Push:
        """The contribution as it is to be kept."""
        if self._limit is None or push.packet is None:
            return push
        if self.held + push.packet.nbytes > self._limit:
            return push._replace(packet=self._put_away(push.packet))
        self.held += push.packet.nbytes
        self._sizes[id(push.packet)] = push.packet.nbytes
        return push

    def leave(self, push: Push) -> None:
        """What `take` gave is kept no longer."""
        if push.packet is not None:
            self.held -= self._sizes.pop(id(push.packet), 0)
