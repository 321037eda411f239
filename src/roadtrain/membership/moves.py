"""Ownership moves that no loss brings about: a newcomer takes over its share, slow lines come to own less than fast ones, and who
wants to leave hands over what it holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from roadtrain.membership.effects import Effects
from roadtrain.membership.record import WorkerRecord
from roadtrain.membership.registry import Registry
from roadtrain.membership.state import State
from roadtrain.membership.uplinks import Line, Round
from roadtrain.membership.view import stand_ins, swapped, with_standbys
from roadtrain.view import FragmentId, PeerId, View

WORTH = 0.75
"""Shares follow what was measured where that makes the longest transfer of a round at most so much of what it is: a move costs a
fragment's state over the line of its owner, and figures differ by a tenth or two from one time to the next."""
EQUAL = Line(1.0)
"""Of a line of which nothing is known, beside others of which nothing is."""


class OwnershipMoves:
    """Of the fragments of `registry`: one step at a time, and only while everything is held twice."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lines: Mapping[PeerId, Line] = {}
        """What shares go by, taken over from what is measured only where that is worth it: noise moves nothing."""
        self._settling = False
        self._weighed = (0, 0, 0)
        """Measurements, the view and how many were active when lines were last weighed."""

    @property
    def _view(self) -> View:
        view = self._registry.view
        assert view is not None, "the run has begun"
        return view

    def rebalance(self, out: Effects) -> bool:
        """One step towards the shares that lines allow, where everything is held twice: whether the view has changed.

        Whoever is to own fragments first stands by for them; when all are held, they and the owners change places. These are two
        views, however many fragments move: in each new one workers say again what has not been answered, which is a round's
        bytes. Unless something was measured lines are equal, and only newcomers are given something.
        """
        view, redundancy = self._registry.view, self._registry.redundancy
        if view is None or not self._registry.sharded or not redundancy.whole(view):
            return False
        due = redundancy.due(view)
        if due:
            self._take_over(due, out)
            return True
        members = [worker for worker in self._registry.alive() if worker.name == worker.group]
        active = [worker for worker in members if worker.state is State.ACTIVE]
        if not self._settling:
            self._weigh(members, [worker.name for worker in active], out)
        takers = [worker.name for worker in active if worker.late or self._settling]
        goal = self._round(members, self._lines).settled(view.owners, takers, view.standbys) if takers else view.owners
        changed = {f: new for f, (old, new) in enumerate(zip(view.owners, goal, strict=True)) if old != new}
        self._settling = bool(changed)
        if changed:
            self._move(changed, out)
        return self._settling

    def _weigh(self, members: Sequence[WorkerRecord], takers: Collection[PeerId], out: Effects) -> None:
        """Whether lines, as they were measured, are so uneven that ownership should follow them."""
        weighed = self._registry.measurements, self._view.number, len(takers)
        if weighed == self._weighed:
            return
        self._weighed, owners = weighed, self._view.owners
        measured = {worker.name: Line(worker.uplink) for worker in members if worker.uplink is not None}
        if len(measured) < len(members):
            return
        now = self._round(members, measured)
        if now.least_s() > WORTH * now.longest_s(owners):
            return
        before_s, after_s = now.longest_s(owners), now.longest_s(now.settled(owners, takers))
        if after_s <= WORTH * before_s:
            self._lines, self._settling = measured, True
            uplinks = {peer: round(line.up / 1e6, 3) for peer, line in measured.items()}
            out.event("shares", uplinks_mb_per_s=uplinks, before_s=round(before_s, 3), after_s=round(after_s, 3))

    def _round(self, members: Sequence[WorkerRecord], lines: Mapping[PeerId, Line]) -> Round:
        """Who came since `lines` were taken over is taken to be as slow as the slowest."""
        unknown = min(lines.values(), default=EQUAL)
        peers = {worker.name: lines.get(worker.name, unknown) for worker in members}
        return Round(peers, self._registry.sizes, rounds=self._registry.rounds)

    def _swap(self, fragments: Sequence[int]) -> None:
        """Owner and standby change places; until the one that was owner holds them anew, it keeps what it has."""
        before = self._view
        self._registry.change(swapped(before, fragments))
        for fragment in fragments:
            self._registry.redundancy.stand_in(fragment, before.owners[fragment])

    def _move(self, owners: Mapping[FragmentId, PeerId], out: Effects) -> None:
        """Let these come to own fragments: at once, if they stand by for all of them."""
        view, redundancy = self._view, self._registry.redundancy
        anew = {fragment: peer for fragment, peer in owners.items() if view.standbys[fragment] != peer}
        if not anew:
            self._take_over(sorted(owners), out)
            return
        self._registry.change(with_standbys(view, anew))
        for fragment in owners:
            redundancy.stand_in(fragment, view.standbys[fragment] if fragment in anew else None, owns=True)

    def _take_over(self, fragments: Sequence[int], out: Effects) -> None:
        """The standbys of these, which hold them, are to own them."""
        self._swap(fragments)
        out.event("moved", fragments=list(fragments), to=sorted({self._view.owners[f] for f in fragments}))

    def draining(self) -> PeerId | None:
        """Who wants to leave, if anybody, and is next."""
        view = self._registry.view
        if view is None or len(view.members) < 2:
            return None
        return next((worker.name for worker in self._registry.alive() if worker.state is State.DRAINING), None)

    def drain(self, name: PeerId) -> bool:
        """One step towards letting a worker go, where everything is held twice: others come to hold what it holds. Returns
        whether it may go.

        What it owns goes to its standbys, which it stands by for then; what it stands by for, to others.
        """
        view, peer = self._view, self._registry.workers[name].group
        if not self._registry.redundancy.whole(view):
            return False
        owned = [fragment for fragment, owner in enumerate(view.owners) if owner == peer]
        if owned:
            self._swap(owned)
            return False
        changed = stand_ins(view, peer, self._registry.sizes)
        if changed:
            self._registry.change(with_standbys(view, changed))
            for fragment in changed:
                self._registry.redundancy.stand_in(fragment, peer)
            return False
        here = [worker for worker in self._registry.alive() if worker.group != peer and worker.gone_s is None]
        return bool(here)
