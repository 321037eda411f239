"""How much of the model each worker should own, by what its line carries. Pure functions of plain data.

In a round a worker that owns s of a model of M bytes sends its contributions to the other owners, M (1 - s), and what it owns to
the W - 1 others, M s (W - 1); it receives as much. Whatever its standby gets is among that: a Replicate stands in for an answer.
So a slow line should own little and a fast one much, until the slowest lines only send their own contributions. Where each
contribution is applied at once, a Replicate of each goes to the standby besides.

Standing by costs next to nothing, and is not weighed here: who owned a fragment before stands by for it afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from roadtrain.view import FragmentId, PeerId

HALVINGS = 60
"""Of an interval that holds the shortest round: the shares are as exact as their numbers."""


class Line(NamedTuple):
    """What a worker's line carries to and from all others together, in bytes per second."""

    up: float
    down: float = math.inf


class Transfer(NamedTuple):
    """Of one fragment to another owner."""

    fragment: FragmentId
    to: PeerId


@dataclass(frozen=True)
class Round:
    """What travels for one agreement. `lines`: of every worker; `sizes`: bytes of each fragment. `rounds`: contributions are
    added all at once, and not each as it comes."""

    lines: Mapping[PeerId, Line]
    sizes: Sequence[int]
    rounds: bool = True

    @cached_property
    def _model(self) -> int:
        return sum(self.sizes)

    @cached_property
    def _more(self) -> tuple[int, int]:
        """How many bytes more an owner sends, and receives, for each that it owns."""
        others = len(self.lines) - 1
        return others - 1 if self.rounds else 2 * others - 1, max(others - 1, 0)

    def seconds(self, peer: PeerId, owned: float) -> float:
        """What a worker's line takes when it owns so many bytes."""
        line, (sends, receives) = self.lines[peer], self._more
        return max((self._model + owned * sends) / line.up, (self._model + owned * receives) / line.down)

    def _room(self, peer: PeerId, seconds: float) -> float:
        """How many bytes a worker may own so that its line takes no longer; negative where it takes longer anyway."""
        line, (sends, receives) = self.lines[peer], self._more
        up = (seconds * line.up - self._model) / sends if sends else math.inf
        down = (seconds * line.down - self._model) / receives if receives else math.inf
        return min(up, down)

    def shares(self) -> dict[PeerId, float]:
        """Parts of the model that make the longest of all lines' times as short as can be; and among those that own anything, all
        take as long (water-filling)."""
        model, peers = self._model, list(self.lines)
        if len(peers) < 3 or not model:
            return dict.fromkeys(peers, 1 / len(peers))
        short, long = 0.0, min(self.seconds(peer, model) for peer in peers)
        for _ in range(HALVINGS):
            middle = (short + long) / 2
            enough = sum(max(0.0, self._room(peer, middle)) for peer in peers) >= model
            short, long = (short, middle) if enough else (middle, long)
        owned = {peer: max(0.0, self._room(peer, long)) for peer in peers}
        return {peer: size / sum(owned.values()) for peer, size in owned.items()}

    def least_s(self) -> float:
        """Seconds of the longest line's time with those shares: no ownership of whole fragments takes less."""
        return max(self.seconds(peer, share * self._model) for peer, share in self.shares().items())

    def longest_s(self, owners: Sequence[PeerId]) -> float:
        """Seconds of the longest line's time, as fragments are owned."""
        return max(self.seconds(peer, owned) for peer, owned in self._owned(owners).items())

    def transfer(
        self, owners: Sequence[PeerId], takers: Collection[PeerId], standbys: Sequence[PeerId | None] = ()
    ) -> Transfer | None:
        """One fragment that one of `takers` should take over from an owner whose line takes longest, so that the longer of both
        becomes as short as can be. None where that does not help. Where shares make no difference, equal ones are best. Of
        fragments alike one whose standby takes it: it has its state already."""
        owned = self._owned(owners)
        costs = {peer: self._cost(peer, size) for peer, size in owned.items()}
        longest = max(costs.values())
        best, best_cost = None, (longest, False)
        for fragment in sorted(range(len(self.sizes)), key=lambda fragment: (-self.sizes[fragment], fragment)):
            owner, size = owners[fragment], self.sizes[fragment]
            left = self._cost(owner, owned[owner] - size)
            if costs[owner] < longest or left > best_cost[0]:
                continue
            for peer in takers:
                after = max(left, self._cost(peer, owned[peer] + size)) if peer != owner else longest
                cost = after, peer not in standbys[fragment : fragment + 1]
                if cost < best_cost:
                    best, best_cost = Transfer(fragment, peer), cost
        return best

    def _cost(self, peer: PeerId, owned: int) -> tuple[float, int]:
        return self.seconds(peer, owned), owned

    def settled(
        self, owners: Sequence[PeerId], takers: Collection[PeerId], standbys: Sequence[PeerId | None] = ()
    ) -> list[PeerId]:
        """The owners after all such transfers."""
        owners = list(owners)
        while (transfer := self.transfer(owners, takers, standbys)) is not None:
            owners[transfer.fragment] = transfer.to
        return owners

    def _owned(self, owners: Sequence[PeerId]) -> dict[PeerId, int]:
        owned = dict.fromkeys(self.lines, 0)
        for owner, size in zip(owners, self.sizes, strict=True):
            owned[owner] += size
        return owned
