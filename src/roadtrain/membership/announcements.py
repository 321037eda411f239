"""Views as workers are told of them, and the changes that no loss brings about: leaving, and taking over a share."""

from __future__ import annotations

from collections.abc import Sequence

from roadtrain.membership.effects import Effects
from roadtrain.membership.messages import NewView, Part, Shutdown
from roadtrain.membership.moves import OwnershipMoves
from roadtrain.membership.registry import Registry
from roadtrain.membership.state import State
from roadtrain.view import PeerId, View

HEIRS = 5
"""So many workers could take the coordinator's place: members first, as the others of a group are lost with theirs."""


class Announcements:
    """Of the views of `registry`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._moves = OwnershipMoves(registry)
        self._last: NewView | None = None

    def announce(self, out: Effects) -> None:
        """Tell all members the current view."""
        for worker in self._registry.alive():
            self.tell(worker.name, out)

    def tell(self, name: PeerId, out: Effects) -> None:
        """The current view, to one worker; one that only slept learns from it that it is out."""
        view = self._registry.view
        assert view is not None
        worker = self._registry.workers[name]
        inside = worker.group in view.peers and worker.state is not State.GONE
        out.tell(name, self._told(view) if inside else NewView(view, {}, {}))

    def _told(self, view: View) -> NewView:
        """What all members are told; the same object for all, as there may be a thousand."""
        if self._last is None or self._last.view is not view:
            registry = self._registry
            members = {peer: registry.workers[peer].said for peer in view.peers}
            others = {worker.name: worker for worker in registry.alive() if worker.name not in members}
            parts = {name: Part(worker.incarnation, worker.said.heir) for name, worker in others.items()}
            heirs = [(name, said.heir) for name, said in (*members.items(), *parts.items()) if said.heir]
            self._last = NewView(
                view,
                {peer: said.request.address for peer, said in members.items()},
                {peer: said.request.digests for peer, said in members.items()},
                dict(heirs[:HEIRS]),
                registry.redundancy.awaited(),
                registry.joins,
                tuple(registry.lost),
                tuple(registry.back),
                registry.handoffs,
                parts,
            )
        return self._last

    def without(self, names: Sequence[PeerId], event: str, out: Effects) -> None:
        """The view without `names`, who were "lost" or "left". Raises RunFailed when it cannot be."""
        before = self._registry.view
        assert before is not None
        for name in names:
            out.event(event, worker=name)
        view = self._registry.lose(names) if event == "lost" else self._registry.release(names)
        moved = [f for f, (old, new) in enumerate(zip(before.owners, view.owners, strict=True)) if old != new]
        if moved:
            self._registry.handoffs += len(moved)
            out.event("handoff", fragments=moved, to=sorted({view.owners[f] for f in moved}))
        self.announce(out)

    def move_on(self, out: Effects) -> Sequence[PeerId]:
        """One step of what waits for everything to be held twice: a newcomer takes over its share, lines that were measured
        have another, or whoever wants to leave may.

        Returns who has left.
        """
        view, leaver = self._registry.view, self._moves.draining()
        if leaver is not None and self._moves.drain(leaver):
            group = self._registry.of_group([leaver])
            self.without(group, "left", out)
            for name in group:
                out.tell(name, Shutdown("it has left the run"))
            return group
        if leaver is None:
            self._moves.rebalance(out)
        if self._registry.view is not view:
            self.announce(out)
        return ()
