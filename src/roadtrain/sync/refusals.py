"""Which contributions owners have left out of their commits, and of which fragments they have accepted none since."""

from __future__ import annotations

from collections.abc import Iterable

from roadtrain.sync.effects import Committed, Event, Refused
from roadtrain.view import FragmentId


class Refusals:
    """At one peer, of the fragments that it owns. `since`: by fragment of which nothing was accepted any more, the clock of the
    first contribution that was refused then."""

    def __init__(self) -> None:
        self.since: dict[FragmentId, int] = {}
        self._refused: dict[FragmentId, list[Refused]] = {}

    def take(self, events: Iterable[Event]) -> list[Refused]:
        """Those of `events` by which a contribution was left out of a commit. One that was only refused may come again."""
        left_out: list[Refused] = []
        for event in events:
            if isinstance(event, Refused):
                self._refused.setdefault(event.fragment, []).append(event)
            elif isinstance(event, Committed):
                refused = self._refused.pop(event.fragment, [])
                left_out += refused
                if event.workers:
                    self.since.pop(event.fragment, None)
                elif refused:
                    self.since.setdefault(event.fragment, refused[0].clock)
        return left_out
