"""What the protocol tells of besides states: counted for the report, and told to the coordinator where a person should know."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from roadtrain.session.accounts import Accounts
from roadtrain.session.control import Control
from roadtrain.session.stats import Counts
from roadtrain.sync.effects import Apart, Counted, Diverged, Event, HandedOff, Refused, Spoils
from roadtrain.sync.fragment import Fragment
from roadtrain.sync.refusals import Refusals
from roadtrain.view import PeerId


class Incidents:
    """Of one worker. `step_of`: the first of the steps that a contribution of this clock holds. `accounts`: where work is given
    out, of what counts."""

    def __init__(
        self,
        control: Control,
        fragments: Sequence[Fragment],
        step_of: Callable[[int], int],
        accounts: Accounts | None = None,
    ) -> None:
        self._control, self._fragments, self._step_of = control, fragments, step_of
        self.accounts = accounts
        self._refusals = Refusals()
        self._counts = Counts()
        self._told: set[bool] = set()
        self._apart: set[str] = set()

    def take(self, events: Sequence[Event]) -> None:
        """These have happened."""
        for event in events:
            match event:
                case Apart(what, workers):
                    self._tell_apart(what, workers)
                case Counted(contributions):
                    if self.accounts is not None:
                        self.accounts.take(contributions)
                case Refused():
                    self._counts.refused += 1
                case Spoils(fragment, worker, reason) if not self._fragments[fragment].buffers:
                    self._control.spoils(worker, reason)
                case HandedOff():
                    self._counts.handoffs += 1
                case Diverged(fragment, version):
                    self._counts.diverged += 1
                    self._control.event("diverged", fragment=fragment, version=version)
                case _:
                    pass
        for refused in self._refusals.take(events):
            self._tell(refused)

    def _tell(self, refused: Refused) -> None:
        """Once of parameters and once of buffers: where it happens in every step, that is all there is to say."""
        fragment = self._fragments[refused.fragment]
        if fragment.buffers in self._told:
            return
        self._told.add(fragment.buffers)
        names = list(dict.fromkeys(piece.name for piece in fragment.pieces))
        what = f"{'buffer' if fragment.buffers else 'parameter'} {names[0]}"
        what += f" or {len(names) - 1} others" if len(names) > 1 else ""
        step = self._step_of(refused.clock)
        self._control.event("refused", of=refused.worker, step=step, what=what, reason=refused.reason)

    def _tell_apart(self, what: str, workers: Sequence[PeerId]) -> None:
        """Once: it is so in every step, and of every fragment."""
        if what not in self._apart:
            self._apart.add(what)
            self._control.event("apart", what=what, workers=list(workers))

    def counts(self) -> Counts:
        """So far. Any thread may ask."""
        since = self._refusals.since.copy()
        steps = [self._step_of(clock) for fragment, clock in since.items() if not self._fragments[fragment].buffers]
        self._counts.refused_since = min(steps, default=0)
        return self._counts
