"""The standby of one fragment: repeats the owner's commits from their Records, ready to take over.

It keeps the packets that its own worker pushed (the Replicate does not carry those back) until their clock is committed.

One that came to other bits gets a snapshot. Where the two machines do not round alike it comes to others again: each time it
then goes on for twice as many commits with its own bits, as good as the owner's, before it compares again.
"""

from __future__ import annotations

from torch import Tensor

from roadtrain.codec import Packet
from roadtrain.errors import PacketError
from roadtrain.message import Fetch, Params, Part, Push, Replicate, Replicated, Snapshot
from roadtrain.sync.aggregate import learning_rate
from roadtrain.sync.dealer import Dealer
from roadtrain.sync.effects import Diverged, Out, Synced
from roadtrain.sync.ledger import TensorLedger, read_snapshot
from roadtrain.sync.strategy import Aggregation, Strategy
from roadtrain.view import FragmentId, PeerId

APART_MAX = 1024
"""Commits from one divergence to the next, at most: a snapshot in so many costs next to nothing."""


class Standby:
    """One fragment at the peer that stands by. `ready`: it holds the run's state and may take over."""

    def __init__(
        self,
        fragment: FragmentId,
        strategy: Strategy,
        ledger: TensorLedger,
        clocks: dict[PeerId, int],
        me: PeerId,
        work: Dealer | None = None,
        *,
        ready: bool,
    ) -> None:
        self.fragment = fragment
        self.ledger = ledger
        self.clocks = clocks
        self.work = work
        self.ready = ready
        self._asked = 0  # the version that could not be repeated: a snapshot is to come; 0: none is
        self._apart, self._compared_from = 1, 0
        self._strategy = strategy
        self._me = me
        self._own: dict[int, Push] = {}

    def keep(self, push: Push) -> None:
        """Remember a contribution of this peer's own worker."""
        self._own[push.clock] = push

    def forget(self, worker: PeerId) -> None:
        """A lost worker of this name comes back as a newcomer."""
        self.clocks.pop(worker, None)
        self.ledger.forget(worker)
        if self.work is not None:
            self.work.give_back(worker)

    def record(self, owner: PeerId, record: Replicate, out: Out) -> None:
        """Repeat one commit; a Replicate out of order is left for the owner to send again."""
        if record.version == self._asked:  # it is said again: the snapshot, or the question, was lost
            out.say(owner, Fetch(self.fragment, 0))
        if not self.ready or record.version > self.ledger.version != record.after:
            return
        if record.version > self.ledger.version and not self._repeated(record, out):
            self.ready, self._asked = False, record.version
            out.events.append(Synced(self.fragment, whole=False))
            out.say(owner, Fetch(self.fragment, 0))
            return
        out.say(owner, Replicated(self.fragment, self.ledger.version))
        self._serve_own_worker(out)

    def _repeated(self, record: Replicate, out: Out) -> bool:
        """Whether the commit could be repeated, to the owner's bits or to others that will do."""
        try:
            self._commit(record)
        except PacketError:
            return False
        if record.version < self._compared_from or self.ledger.digest() == record.digest:
            return True
        out.events.append(Diverged(self.fragment, record.version))
        self._compared_from = record.version + self._apart
        self._apart = min(2 * self._apart, APART_MAX)
        return False

    def _commit(self, record: Replicate) -> None:
        if not record.parts:
            raise PacketError("a commit of no contribution")
        mean, lr = self._mean(record), learning_rate(record.parts)
        if self._strategy.aggregation is Aggregation.ROUND:
            self.ledger.commit(mean, self.ledger.version + 1, lr=lr)
        elif record.members < 1:
            raise PacketError("a commit in a view without members")
        else:
            part = record.parts[0]
            damping = part.staleness if self._strategy.damping else 1
            self.ledger.commit(mean, part.clock, 1 / record.members, damping, lr)
        self.ledger.version = record.version
        if self.work is not None and record.work is not None:
            self.work.repeat(record.parts, record.work, record.version)
        for part in record.parts:
            self.clocks[part.worker] = max(part.clock, self.clocks.get(part.worker, 0))
        self._own = {clock: push for clock, push in self._own.items() if clock > self.clocks.get(self._me, 0)}

    def _mean(self, record: Replicate) -> Tensor | None:
        if record.mean is not None:
            return self.ledger.read_condensed(record.mean)
        counted = [part for part in record.parts if part.weight > 0]
        if not counted:
            return None
        return self.ledger.aggregate([self._packet(part) for part in counted], [part.weight for part in counted])

    def _packet(self, part: Part) -> Packet:
        own = self._own.get(part.clock) if part.worker == self._me else None
        packet = part.packet if part.packet is not None else (own.packet if own else None)
        if packet is None:
            raise PacketError(f"record without the contribution of {part.worker}")
        return packet

    def as_snapshot(self, question: int) -> Snapshot:
        """What the owner would say, as far as its Records have come."""
        clocks = tuple(sorted(self.clocks.items()))
        work = None if self.work is None else self.work.state()
        return Snapshot(self.fragment, question, self.ledger.version, clocks, self.ledger.snapshot(), work)

    def snapshot(self, owner: PeerId, snapshot: Snapshot, out: Out) -> None:
        """Take over everything that the owner knows. Raises PacketError when it does not fit this fragment."""
        if self.ready and snapshot.version < self.ledger.version:
            return
        theta = self.ledger.theta
        self.ledger.restore(snapshot.version, read_snapshot(snapshot.tensors, theta.numel(), theta.dtype))
        self.clocks.clear()
        self.clocks.update(snapshot.clocks)
        if self.work is not None and snapshot.work is not None:
            self.work.restore(snapshot.work)
        if not self.ready:
            out.events.append(Synced(self.fragment))
        self.ready, self._asked = True, 0
        out.say(owner, Replicated(self.fragment, snapshot.version))
        self._serve_own_worker(out)

    def _serve_own_worker(self, out: Out) -> None:
        """In rounds the state is here already: it need not travel once more. Unless the round closed without it: then its owner
        may not know yet that it takes part."""
        here = self.clocks.get(self._me, 0) >= self.ledger.version
        if self._strategy.aggregation is Aggregation.ROUND and here:
            version = self.ledger.version
            answer = self.ledger.answer(self._me, version)
            work = None if self.work is None else self.work.pool.assignment(self._me)
            out.say(self._me, Params(self.fragment, version, version, 0, 0, answer.full, True, answer.packet, work))
