"""Which lost groups are to be started again: those that died without a word, while others of the run live."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from roadtrain.view import PeerId

RESTARTS = 3
"""How often one group is started again."""


class RestartPolicy:
    """`wanted`: groups to be started, by whoever can start workers."""

    def __init__(self) -> None:
        self.wanted: deque[tuple[PeerId, ...]] = deque()
        self._faulty: set[PeerId] = set()
        self._losses: Counter[PeerId] = Counter()

    def fault(self, name: PeerId) -> None:
        """A worker has said what is wrong with it, which would be so again."""
        self._faulty.add(name)

    def lost(self, group: Sequence[PeerId]) -> None:
        """A group is gone."""
        if not group or self._faulty.intersection(group):
            return
        self._losses[group[0]] += 1
        if self._losses[group[0]] <= RESTARTS:
            self.wanted.append(tuple(group))
