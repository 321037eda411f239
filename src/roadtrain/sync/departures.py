"""Who contributes nothing more to one fragment, and what they are told when nobody does."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from roadtrain.codec import Packet
from roadtrain.message import Leave, Left
from roadtrain.sync.ledger import TensorLedger
from roadtrain.view import FragmentId, PeerId


class Departures:
    """The Leaves that an owner has heard. They are not replicated: workers say theirs again to whoever takes over."""

    def __init__(self, fragment: FragmentId) -> None:
        self._fragment = fragment
        self._leaves: dict[PeerId, Leave] = {}
        self._asking: set[PeerId] = set()

    def __contains__(self, worker: object) -> bool:
        return worker in self._leaves

    def add(self, worker: PeerId, leave: Leave) -> None:
        """`worker` leaves, and waits for the answer."""
        self._leaves[worker] = leave
        self._asking.add(worker)

    def forget(self, worker: PeerId) -> None:
        """It is lost, or comes back as another."""
        self._leaves.pop(worker, None)
        self._asking.discard(worker)

    def keep(self, members: Collection[PeerId]) -> None:
        """Forget all who are no members any more."""
        for worker in self._leaves.keys() - set(members):
            self.forget(worker)

    def staying(self, members: Sequence[PeerId]) -> Sequence[PeerId]:
        """The members that have not left."""
        return [peer for peer in members if peer not in self._leaves] if self._leaves else members

    def apart(self, members: Sequence[PeerId]) -> tuple[PeerId, ...]:
        """Those that went furthest, where they have ended with different models; none before all have left."""
        if not self._asking or len(self._leaves) < len(members):
            return ()
        last = max(self._leaves[peer].clock for peer in members)
        ended = tuple(peer for peer in members if self._leaves[peer].clock == last)
        return ended if len({self._leaves[peer].digest for peer in ended}) > 1 else ()

    def answers(self, members: Sequence[PeerId], ledger: TensorLedger) -> list[tuple[PeerId, Left]]:
        """What each that asks is told, once all `members` have left; nothing before."""
        if not self._asking or len(self._leaves) < len(members):
            return []
        same = len({self._leaves[peer].digest for peer in members}) == 1
        furthest = "" if same else max(members, key=lambda peer: self._leaves[peer].clock)
        asking, self._asking = sorted(self._asking), set()
        whole: Packet | None = None
        said: list[tuple[PeerId, Left]] = []
        for worker in asking:
            leave = self._leaves[worker]
            holds = leave.version == ledger.version
            if not holds and whole is None:
                whole = ledger.whole()
            packet = None if holds else whole
            said.append((worker, Left(self._fragment, leave.clock, ledger.version, furthest, packet)))
        return said
