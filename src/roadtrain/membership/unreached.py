"""Members that cannot reach each other, though the coordinator hears them all: one of them must go, or all wait for ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from roadtrain.view import PeerId

GATHER_S = 3.0
"""From the first complaint to the decision: who is complained of by several is the one that is cut off."""


class Unreached:
    """What members have said of each other since the last decision."""

    def __init__(self) -> None:
        self._pairs: set[frozenset[PeerId]] = set()
        self._since_s = 0.0

    def note(self, one: PeerId, other: PeerId, now: float) -> None:
        """`one` has not reached `other` for long."""
        self._since_s = self._since_s if self._pairs else now
        self._pairs.add(frozenset((one, other)))

    def decide(self, members: Sequence[PeerId], now: float) -> PeerId | None:
        """Who is to be lost, if anybody: who has part in most complaints, of two with as many the later member."""
        if not self._pairs or now - self._since_s < GATHER_S:
            return None
        counts = Counter(peer for pair in self._pairs if pair <= set(members) for peer in pair)
        self._pairs.clear()  # if others still cannot reach each other, they will say so again
        return max(counts, key=lambda peer: (counts[peer], members.index(peer)), default=None)
