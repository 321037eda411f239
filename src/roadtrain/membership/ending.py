"""The end of a run: a common last step, one worker that saves for all, goodbyes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from roadtrain.membership.effects import Effects
from roadtrain.membership.graceful_stop import StopBarrier
from roadtrain.membership.messages import Done, Finish, Freeze, StopAt
from roadtrain.membership.phase import Phase
from roadtrain.view import PeerId

CLOSING_S = 3.0
"""Longest wait for goodbyes."""


class Ending:
    """`interrupted`: a person ends the run before its time. `patient`: scripts may go on when their training has ended."""

    def __init__(self, *, patient: bool) -> None:
        self.interrupted = False
        self.done: dict[PeerId, Done] = {}
        self._patient = patient
        self._stop = StopBarrier(synchronous=True)
        self._gone: set[PeerId] = set()
        self._saver: PeerId | None = None
        self._closing_since = 0.0

    def begin(self, *, rounds: bool) -> None:
        """The run begins; `rounds`: all must stop at the same step."""
        self._stop = StopBarrier(rounds)

    def forget(self, name: PeerId) -> None:
        """A worker of this name begins anew."""
        self.done.pop(name, None)
        self._gone.discard(name)

    def frozen(self, name: PeerId, step: int) -> None:
        """A worker begins no step after this one."""
        self._stop.frozen(name, step)

    def agree_on_stop(self, alive: Sequence[PeerId], out: Effects) -> None:
        """Tell each the step after which it stops, when all have said where they are."""
        for name, step in self._stop.agree(alive, self.done).items():
            out.tell(name, StopAt(step))

    def finish(self, alive: Sequence[PeerId], out: Effects) -> bool:
        """When all have ended: let the first of them save for all. Whether it was told to."""
        if self._saver is not None or not alive or not all(name in self.done for name in alive):
            return False
        self.interrupted = self.interrupted and not all(self.done[name].complete for name in alive)
        self._saver = alive[0]
        self._order(alive, out)
        return True

    def _order(self, alive: Sequence[PeerId], out: Effects) -> None:
        assert self._saver is not None
        out.tell(self._saver, Finish({name: self.done[name].step for name in alive}, not self.interrupted))

    def lost(self, names: Sequence[PeerId]) -> None:
        """Nothing is waited for from these any more."""
        if self._saver in names:
            self._saver = None

    def repeat(self, name: PeerId, phase: Phase, alive: Sequence[PeerId], out: Effects) -> None:
        """What a worker may not have heard of the end."""
        if name in self._stop.steps:
            out.tell(name, StopAt(self._stop.steps[name]))
        elif phase is Phase.STOPPING:
            out.tell(name, Freeze())
        if phase is Phase.FINISHING and name == self._saver:
            self._order(alive, out)

    # --------------------------------------------------------------------------------------------------- goodbyes

    def close(self, now: float) -> None:
        """All that is to be saved is saved."""
        self._closing_since = now

    def gone(self, names: Sequence[PeerId]) -> None:
        """These have said goodbye, or will not any more."""
        self._gone.update(names)

    def is_gone(self, name: PeerId) -> bool:
        """Whether it has said goodbye."""
        return name in self._gone

    def over(self, alive: Sequence[PeerId], now: float) -> bool:
        """Whether nobody is waited for any more."""
        patience_s = math.inf if self._patient else CLOSING_S
        return all(name in self._gone for name in alive) or now - self._closing_since > patience_s
