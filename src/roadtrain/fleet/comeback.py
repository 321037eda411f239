"""Which lost crews are to be started again: those that died without a word, while others of the run live."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from roadtrain.message import PeerId

COMEBACKS = 3
"""How often one crew is started again."""


class Comebacks:
    """`wanted`: crews to be started, by whoever can start workers."""

    def __init__(self) -> None:
        self.wanted: deque[tuple[PeerId, ...]] = deque()
        self._faulty: set[PeerId] = set()
        self._losses: Counter[PeerId] = Counter()

    def fault(self, name: PeerId) -> None:
        """A worker has said what is wrong with it, which would be so again."""
        self._faulty.add(name)

    def lost(self, crew: Sequence[PeerId]) -> None:
        """A crew is gone."""
        if not crew or self._faulty.intersection(crew):
            return
        self._losses[crew[0]] += 1
        if self._losses[crew[0]] <= COMEBACKS:
            self.wanted.append(tuple(crew))
