"""What a lost worker contributed last: it may be in at fragment 0 and not in others, which its owner asks then.

It died between two of its contributions, or owned the only copy of one. What is not in everywhere is computed again. Until that
is known the run is not over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from roadtrain.lease import Leases
from roadtrain.message import Trace, Traced
from roadtrain.sync.dealer import Dealer
from roadtrain.sync.effects import Out, TakenBack
from roadtrain.view import FragmentId, PeerId


class Doubt(NamedTuple):
    """What the contribution was computed on; `needed`: by fragment whose owner has not said yet how far the worker came there,
    which contribution has that in it."""

    leases: Leases
    needed: dict[FragmentId, int]


class Traces:
    """At the owner of fragment 0, which gives out `work`."""

    def __init__(self, work: Dealer) -> None:
        self._work = work
        self._doubts: dict[PeerId, Doubt] = {}

    def __bool__(self) -> bool:
        return bool(self._doubts)

    def begin(self, lost: Iterable[PeerId], fragments: int, out: Out) -> None:
        """These workers are lost, or have come back as others."""
        for worker in lost:
            if worker in self._doubts:  # nobody knows of its earlier life any more
                self._settle(worker, out, everywhere=False)
            found = self._work.in_doubt(worker)
            if found is not None:
                clock, leases = found
                needed = {fragment: self._work.needed(clock, fragment) for fragment in range(1, fragments)}
                self._doubts[worker] = Doubt(leases, needed)

    def ask(self, owners: Sequence[PeerId], out: Out) -> None:
        """Ask how far they came elsewhere."""
        for worker, doubt in self._doubts.items():
            for fragment in sorted(doubt.needed):
                out.say(owners[fragment], Trace(fragment, worker))

    def take(self, found: Traced, out: Out) -> bool:
        """How far one came: whether it is known now what becomes of what it contributed."""
        doubt = self._doubts.get(found.worker)
        needed = None if doubt is None else doubt.needed.pop(found.fragment, None)
        if doubt is None or needed is None or (doubt.needed and found.clock >= needed):
            return False
        self._settle(found.worker, out, everywhere=found.clock >= needed)
        return True

    def _settle(self, worker: PeerId, out: Out, *, everywhere: bool) -> None:
        leases = self._doubts.pop(worker).leases
        self._work.settle(worker, everywhere=everywhere)
        if not everywhere:
            out.events.append(TakenBack(worker, leases))
