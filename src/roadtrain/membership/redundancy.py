"""Which fragments are held twice: what the coordinator must know before it takes anything away from anybody.

A standby that the view names holds nothing until it has been sent the fragment's state, and says so then (`Holds`). Until then
nothing is acknowledged that its owner alone has; and where it stands in for another standby, that one keeps its state (`former`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from roadtrain.membership.messages import Awaited, Holds
from roadtrain.view import FragmentId, PeerId, View


class Redundancy:
    """`former`: who stood by before the present standby, while that one does not hold its fragment."""

    def __init__(self) -> None:
        self._since: dict[FragmentId, int] = {}
        """Fragments whose standby has not said that it holds them, and the view that made it one."""
        self._former: dict[FragmentId, PeerId] = {}
        self._moving: set[FragmentId] = set()

    @property
    def former(self) -> Mapping[FragmentId, PeerId]:
        return self._former

    def begin(self, view: View) -> None:
        """Everybody of the first view begins with the same state."""
        self._since.clear()

    def awaited(self) -> tuple[Awaited, ...]:
        """What another coordinator would have to know."""
        return tuple(
            Awaited(fragment, since, self._former.get(fragment), fragment in self._moving)
            for fragment, since in self._since.items()
        )

    def recall(self, awaited: Sequence[Awaited]) -> None:
        """Know what another coordinator knew."""
        self._since = {each.fragment: each.since for each in awaited}
        self._former = {each.fragment: each.former for each in awaited if each.former is not None}
        self._moving = {each.fragment for each in awaited if each.moves}

    def change(self, before: View, after: View) -> None:
        """`after` follows: whoever is a new standby in it holds nothing yet."""
        pairs = zip(before.standbys, after.standbys, strict=True)
        for fragment, (was, standby) in enumerate(pairs):
            if standby is None:
                self._since.pop(fragment, None)
            elif standby != was or before.incarnations.get(standby) != after.incarnations[standby]:
                self._since[fragment] = after.number
            if before.owners[fragment] != after.owners[fragment] or standby != was:
                self._former.pop(fragment, None)
                self._moving.discard(fragment)

    def stand_in(self, fragment: FragmentId, before: PeerId | None, *, owns: bool = False) -> None:
        """`before` stood by for `fragment` until now. `owns`: the present standby is to own it as soon as it holds it."""
        if owns:
            self._moving.add(fragment)
        if before is not None:
            self._former[fragment] = before

    def holds(self, view: View, peer: PeerId, said: Holds) -> None:
        """`peer` says that it holds a fragment, or that it does not any more."""
        fragment = said.fragment
        if fragment >= len(view.standbys) or view.standbys[fragment] != peer:
            return
        if not said.whole:
            self._since.setdefault(fragment, said.view)
        elif said.view >= self._since.get(fragment, said.view + 1):
            del self._since[fragment]
            self._former.pop(fragment, None)

    def whole(self, view: View) -> bool:
        """Whether every fragment is held twice, or there is but one member."""
        return not self._since

    def due(self, view: View) -> list[FragmentId]:
        """Fragments whose standby holds them now and is to own them."""
        due = sorted(self._moving - self._since.keys())
        self._moving.difference_update(due)
        return due
