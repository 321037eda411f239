"""The step after which all stop, when a person wants the run to end before its time."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from roadtrain.view import PeerId


class StopBarrier:
    """`synchronous`: all must stop at the same step; otherwise each where it is. `steps`: once agreed on, of each worker."""

    def __init__(self, synchronous: bool) -> None:
        self.steps: dict[PeerId, int] = {}
        self._synchronous = synchronous
        self._frozen: dict[PeerId, int] = {}

    def frozen(self, name: PeerId, step: int) -> None:
        """A worker was asked to take no further step, and is in this one."""
        self._frozen[name] = step

    def agree(self, alive: Sequence[PeerId], done: Collection[PeerId]) -> dict[PeerId, int]:
        """When everyone has said which step it is in, once: the first that nobody has passed, or each its own. Else nothing."""
        if self.steps or not all(name in self._frozen or name in done for name in alive):
            return {}
        last = max((self._frozen.get(name, 0) for name in alive), default=0)
        self.steps = {name: last if self._synchronous else self._frozen.get(name, 0) for name in alive}
        return self.steps
