"""Ownership moves that no loss brings about: a newcomer takes over its share, and who wants to leave hands over what it holds."""

from __future__ import annotations

from collections.abc import Sequence

from roadtrain.membership.registry import Registry
from roadtrain.membership.state import State
from roadtrain.membership.view import fair_share, stand_ins, swapped, with_standbys
from roadtrain.view import PeerId, View


class OwnershipMoves:
    """Of the fragments of `registry`: one step at a time, and only while everything is held twice."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @property
    def _view(self) -> View:
        view = self._registry.view
        assert view is not None, "the run has begun"
        return view

    def rebalance(self) -> bool:
        """One step towards equal shares, where everything is held twice: whether the view has changed.

        A newcomer first stands by for what it will own; when it holds that, it and the owner change places.
        """
        view, redundancy = self._registry.view, self._registry.redundancy
        if view is None or not self._registry.sharded or not redundancy.whole(view):
            return False
        due = redundancy.due(view)
        if due:
            self._swap(due)
            return True
        for worker in self._registry.alive():
            if worker.state is State.ACTIVE and worker.late and worker.name == worker.group:
                share = fair_share(self._view, worker.name, self._registry.sizes)[:1]
                if share:
                    self._move(worker.name, share[0])
                    return True
        return False

    def _swap(self, fragments: Sequence[int]) -> None:
        """Owner and standby change places; until the one that was owner holds them anew, it keeps what it has."""
        before = self._view
        self._registry.change(swapped(before, fragments))
        for fragment in fragments:
            self._registry.redundancy.stand_in(fragment, before.owners[fragment])

    def _move(self, peer: PeerId, fragment: int) -> None:
        """Let `peer` come to own `fragment`: at once if it stands by for it."""
        if self._view.standbys[fragment] == peer:
            self._swap([fragment])
            return
        before = self._view.standbys[fragment]
        self._registry.change(with_standbys(self._view, {fragment: peer}))
        self._registry.redundancy.stand_in(fragment, before, owns=True)

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
