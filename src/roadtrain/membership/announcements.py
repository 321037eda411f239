"""Views as workers are told of them, and the changes that no loss brings about: leaving, and taking over a share."""

from __future__ import annotations

from collections.abc import Sequence

from roadtrain.membership.effects import Effects
from roadtrain.membership.messages import NewView, Shutdown
from roadtrain.membership.registry import Registry
from roadtrain.membership.state import State
from roadtrain.view import PeerId


class Announcements:
    """Of the views of `registry`. `handoffs`: fragments that came to another owner as theirs was lost, or left."""

    def __init__(self, registry: Registry) -> None:
        self.handoffs = 0
        self._registry = registry

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
        addresses = self._registry.addresses() if inside else {}
        first = self._registry.first_digests() if inside else {}
        out.tell(name, NewView(view, addresses, first))

    def without(self, names: Sequence[PeerId], event: str, out: Effects) -> None:
        """The view without `names`, who were "lost" or "left". Raises RunFailed when it cannot be."""
        before = self._registry.view
        assert before is not None
        for name in names:
            out.event(event, worker=name)
        view = self._registry.lose(names) if event == "lost" else self._registry.release(names)
        moved = [f for f, (old, new) in enumerate(zip(before.owners, view.owners, strict=True)) if old != new]
        if moved:
            self.handoffs += len(moved)
            out.event("handoff", fragments=moved, to=sorted({view.owners[f] for f in moved}))
        self.announce(out)

    def move_on(self, out: Effects) -> Sequence[PeerId]:
        """One step of what waits for everything to be held twice: a newcomer takes over its share, or whoever wants to leave may.

        Returns who has left.
        """
        view, leaver = self._registry.view, self._registry.draining()
        if leaver is not None and self._registry.drain(leaver):
            group = self._registry.of_group([leaver])
            self.without(group, "left", out)
            for name in group:
                out.tell(name, Shutdown("it has left the run"))
            return group
        if leaver is None:
            self._registry.rebalance()
        if self._registry.view is not view:
            self.announce(out)
        return ()
