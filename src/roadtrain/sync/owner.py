"""The owner of one fragment: collects contributions, commits them, answers.

Theory of operation
-------------------
A contribution is named by (worker, fragment, clock); `clocks` holds the last one of each worker that is in, so a repeated one
is recognised and answered as before, not applied again.

*Rounds* (synchronous strategies): packets wait in `inbox` until every member's is in. Then they are decoded and added in the
order of the view, the rule makes one step, the version rises by one and equals the clock of the round. A contribution that comes
when its round has closed (backup workers) is left out; its worker gets the state and goes on with the round that is open.
*Each at once* (asgd, ssp): a contribution is applied when it comes; the gate decides when its worker is answered.

A newcomer asks for the state at clock 0. It is in `clocks`, and waited for, from its first contribution on; where a round makes
the mean that every worker steps with, from that answer on. Who has left is waited for no more; when all have, each is told
what the fragment ends with. Departures are not replicated: workers say them again to whoever takes over.

A commit counts only when the standby has its Replicate (`confirmed`): what a worker has been told survives this owner. Until then
workers keep their contributions and can push them again to whoever takes over. In rounds the state is sent at once, to be used
when it is confirmed; and the standby, itself a worker, computes the state from it, in place of an answer.

The owner of fragment 0 gives out the work (`sync/dealer.py`). A contribution to it names the samples that it was computed on, and
counts unless one of them is in already. A round in which nobody has computed anything stays open as long as others hold all that
is left; where contributions are applied as they come, who has nothing to do is not answered until there is something.

A contribution that is not finite, or far from what is usual (`sync/screen.py`), becomes a part of weight 0. Of a worker none of
whose contributions can be used is told, so that it may be put out of the run.

Invariants: `version` rises by one with every commit; `confirmed <= version`; a worker is answered only for a clock that is
in, confirmed, and admitted by the gate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from roadtrain.codec import Packet
from roadtrain.lease import Assignment
from roadtrain.message import Leave, Nack, Params, Part, Push, Replicate, Snapshot, Stable, Traced, Worked
from roadtrain.sync.aggregate import aggregate, learning_rate
from roadtrain.sync.consistency import admits, closes, lead, slowest
from roadtrain.sync.dealer import Dealer
from roadtrain.sync.departures import Departures
from roadtrain.sync.effects import Apart, Committed, Counted, HandedOff, LeftOut, Out, Refused, Resent, Spoils
from roadtrain.sync.ledger import TensorLedger
from roadtrain.sync.room import Room
from roadtrain.sync.screen import Screen
from roadtrain.sync.standby import Standby
from roadtrain.sync.strategy import Aggregation, Strategy
from roadtrain.sync.traces import Traces
from roadtrain.view import FragmentId, PeerId, View


class Waiting(NamedTuple):
    """A worker that waits for the state: its clock, and the version that must be confirmed first."""

    clock: int
    version: int
    staleness: int
    offered: bool = False


class Owner:
    """One fragment at the peer that owns it. Every method returns, through `out`, what is to be said."""

    def __init__(
        self,
        fragment: FragmentId,
        strategy: Strategy,
        ledger: TensorLedger,
        clocks: dict[PeerId, int],
        standby: PeerId | None,
        room: Room,
        work: Dealer | None = None,
        *,
        given_out: bool = False,
    ) -> None:
        """`standby`: the peer that is known to hold the same state already. `room`: of all owners of this peer. `given_out`: the
        samples are; `work`: where that is here."""
        self.fragment = fragment
        self.ledger = ledger
        self.clocks = clocks
        self.confirmed = ledger.version
        self._strategy = strategy
        self._members: tuple[PeerId, ...] = ()
        self._owners: tuple[PeerId, ...] = ()
        self._ranks: dict[PeerId, int] = {}
        self._least = 0  # members that take part; newcomers may add to them
        self._standby: PeerId | None = standby
        self._inbox: dict[PeerId, Push] = {}
        self._room = room
        self._waiting: dict[PeerId, Waiting] = {}
        self._log: list[Replicate] = []
        self._snapshot_due = False
        self._departures = Departures(fragment)
        self._work, self._given_out = work, given_out
        self._screen = Screen()
        self._lost: dict[PeerId, int] = {}
        self._traces = None if work is None else Traces(work)
        self._returned: set[PeerId] = set()

    @property
    def unconfirmed(self) -> bool:
        """Whether the standby, or another owner, owes an answer."""
        return self.confirmed < self.ledger.version or self._snapshot_due or bool(self._traces)

    # -------------------------------------------------------------------------------------------- membership

    def join(self, view: View, out: Out, *, promoted: bool = False) -> None:
        """Take part in `view`. `promoted`: this peer has just taken the fragment over and was its standby before."""
        self._members = view.peers
        self._ranks = {peer: rank for rank, peer in enumerate(view.peers)}
        self._drop_lost()
        if self._work is not None:
            self._trace_lost(self._work, view, out)
        self._departures.keep(view.peers)
        self._count()
        standby = view.standbys[self.fragment]
        if standby != self._standby:
            self._snapshot_due = standby is not None
        self._standby = standby
        # What was offered in the old view is forgotten at the other end.
        self._waiting = {p: w._replace(offered=False) for p, w in self._waiting.items() if p in self._ranks}
        if self._work is not None:
            self._work.keep(view.peers)
        if promoted:
            out.events.append(HandedOff(self.fragment, self.ledger.version))
        if promoted and self._work is not None and self._work.remembered():
            out.events.append(Counted(self._work.remembered()))
        if standby is None:
            self._confirm(self.ledger.version, out)
        else:
            self._say_unconfirmed(standby, out)
        self._close_round(out)
        self._answer(out)
        self._let_go(out)

    def _drop_lost(self) -> None:
        """Where samples are given out, others compute what a lost worker did in a round that is open: it may not have contributed
        to all fragments."""
        for worker in [peer for peer in self._inbox if self._given_out and peer not in self._ranks]:
            push = self._inbox.pop(worker)
            self._room.leave(push)
            self.clocks[worker] = push.clock - 1

    def _trace_lost(self, work: Dealer, view: View, out: Out) -> None:
        contributors = [worker for worker in work.contributors() if worker not in self._departures]
        lost = [worker for worker in contributors if worker not in self._ranks or worker in self._returned]
        self._owners, self._returned = view.owners, set()
        if self._traces is not None and len(view.owners) > 1:
            self._traces.begin(lost, len(view.owners), out)

    def ask_traces(self, out: Out) -> None:
        """Ask how far lost workers came elsewhere. The other owners of this peer must be in the view by then."""
        if self._traces:
            self._traces.ask(self._owners, out)

    def trace(self, worker: PeerId) -> Traced:
        """How far a worker came here that was lost; perhaps it has come back since, or this owner has not heard of it yet."""
        return Traced(self.fragment, worker, max(self._lost.get(worker, 0), self.clocks.get(worker, 0)))

    def traced(self, found: Traced, out: Out) -> None:
        """How far it came elsewhere."""
        if self._traces is not None and self._traces.take(found, out):
            self._close_round(out)
            self._answer(out)
            self._let_go(out)

    def _count(self) -> None:
        """How many take part for certain."""
        self._least = sum(peer in self.clocks and peer not in self._departures for peer in self._members)

    def forget(self, worker: PeerId) -> None:
        """A lost worker of this name comes back as a newcomer."""
        if any(part.worker == worker for record in self._log for part in record.parts):
            self._snapshot_due = True  # the standby would take what these say of the lost one for the newcomer's
        self._lost[worker] = self.clocks.pop(worker, 0)
        self._returned.add(worker)
        waiting = self._inbox.pop(worker, None)
        if waiting is not None:
            self._room.leave(waiting)
        self._waiting.pop(worker, None)
        self._departures.forget(worker)
        self.ledger.forget(worker)
        self._screen.forget(worker)
        if self._work is not None:
            self._work.give_back(worker)

    # ----------------------------------------------------------------------------------------------- departures

    def leave(self, worker: PeerId, leave: Leave, out: Out) -> None:
        """A worker whose contributions have all been answered has no more, and asks what the fragment ends with."""
        self._departures.add(worker, leave)
        self._waiting.pop(worker, None)
        if self._work is not None:
            self._work.give_back(worker)
        self._count()
        self._close_round(out)
        self._answer(out)
        self._let_go(out)

    def _let_go(self, out: Out) -> None:
        """When nobody contributes any more: tell those that ask what the fragment ends with."""
        if self._inbox or self.unconfirmed:
            return
        apart = self._departures.apart(self._members)
        if apart:
            out.events.append(Apart("model", apart))
        for worker, left in self._departures.answers(self._members, self.ledger):
            out.say(worker, left)

    # ----------------------------------------------------------------------------------------- contributions

    def push(self, worker: PeerId, push: Push, out: Out) -> None:
        """A contribution arrived."""
        rounds = self._strategy.aggregation is Aggregation.ROUND
        last = self.ledger.version if rounds else self.clocks.get(worker, push.clock - 1)
        if push.clock <= self.clocks.get(worker, 0):
            self.pull(worker, push.clock, out)
        elif push.clock > last + 1:
            out.events.append(Refused(self.fragment, worker, push.clock, f"clock {push.clock} after {last}"))
        elif rounds:
            self._take(worker, push, out)
        else:
            self._apply(worker, push, out)

    def worked(self, worker: PeerId, worked: Worked, out: Out) -> Assignment | None:
        """`worker` is alone, and has computed something by itself. What it computes next."""
        if self._work is None:
            return None
        given = self._work.alone(worker, worked.leases, worked.steps)
        self._confirm(self.confirmed, out)
        return given

    def pull(self, worker: PeerId, clock: int, out: Out) -> None:
        """A worker asks whether its contribution of `clock` is in, and for the state when it may have it."""
        if (
            self._strategy.aggregation is Aggregation.ROUND
            and worker == self._standby
            and clock == self.ledger.version > self.confirmed
        ):
            return  # the Replicate that is under way serves it, and is said again until it is confirmed
        begins = clock == 0 and (worker not in self.clocks or self._is_coming(worker))
        seen = self.clocks.get(worker, 0)
        if clock > seen:
            out.say(worker, Nack(self.fragment, clock))
        elif (begins or clock == seen > 0) and worker not in self._inbox and worker not in self._waiting:
            self._waiting[worker] = Waiting(clock, self.ledger.version, 0)
            self._answer(out, worker)

    def _is_coming(self, worker: PeerId) -> bool:
        """Whether it is waited for, as it must miss no mean, and has contributed nothing yet."""
        return self._strategy.averages and self.clocks[worker] == self.ledger.version and worker not in self._inbox

    def _take(self, worker: PeerId, push: Push, out: Out) -> None:
        self.clocks[worker] = push.clock
        if push.clock > self.ledger.version:
            self._inbox[worker] = self._room.take(push)
        else:
            if self._work is not None:
                self._work.late(worker, push, self.ledger.version)
            self._waiting[worker] = Waiting(push.clock, self.ledger.version, 0)
            self._answer(out, worker)
        self._close_round(out)

    def _close_round(self, out: Out) -> None:
        backup = self._strategy.backup
        if self._strategy.aggregation is not Aggregation.ROUND or len(self._inbox) < self._least - backup:
            return
        if not closes(self._inbox, self.clocks, self._departures.staying(self._members), backup):
            return
        if (
            self._work is not None
            and not any(p.weight for p in self._inbox.values())
            and self._work.is_idle(self._inbox)
        ):
            return
        pushes = sorted(self._inbox.items(), key=lambda item: self._rank(item[0]))
        self._inbox.clear()
        for _, push in pushes:
            self._room.leave(push)
        pushes = [(worker, self._admitted(worker, push, out)) for worker, push in pushes]
        rates = {push.lr for _, push in pushes if push.weight > 0} if self._strategy.averages else set[float]()
        if len(rates) > 1:
            out.events.append(Apart("learning rate", tuple(worker for worker, _ in pushes)))
        parts, mean = self._read(pushes, out)
        parts, condensed, mean = self._for_standby(parts, mean)
        after = self.ledger.version
        self.ledger.commit(mean, after + 1, lr=learning_rate([push for _, push in pushes]))
        if self._work is not None:
            here = [
                (worker, push) for worker, push in pushes if worker in self._ranks and worker not in self._departures
            ]
            self._work.close_round(here, after + 1)
        for worker, push in pushes:
            if worker in self._ranks and worker != self._standby:
                self._waiting[worker] = Waiting(push.clock, self.ledger.version, 0)
        self._committed(after, parts, condensed, out)

    def _admitted(self, worker: PeerId, push: Push, out: Out) -> Push:
        """The contribution, without anything in it where others have brought in what it was computed on."""
        if self._work is None:
            return push
        if self._work.admits(push):
            self._work.bring(worker, push)
            return push
        out.events.append(LeftOut(self.fragment, worker, push.clock))
        self._work.leave_out(worker, push)
        return push._replace(weight=0.0, packet=None, leases=())

    def _apply(self, worker: PeerId, push: Push, out: Out) -> None:
        push = self._admitted(worker, push, out)
        after = self.ledger.version
        self.ledger.version = max(after, push.base)
        staleness = self.ledger.version - push.base
        parts, mean = self._read([(worker, push)], out, staleness)
        damping = staleness if self._strategy.damping else 1
        self.ledger.commit(mean, push.clock, 1 / len(self._members), damping, learning_rate([push]))
        self.clocks[worker] = push.clock
        self._waiting[worker] = Waiting(push.clock, self.ledger.version, staleness)
        if self._work is not None:
            self._work.top_up(worker, self._departures.staying(self._members))
        self._committed(after, self._lean(parts), None, out, len(self._members))

    def _read(
        self, pushes: list[tuple[PeerId, Push]], out: Out, staleness: int = 0
    ) -> tuple[tuple[Part, ...], Tensor | None]:
        """Their weighted mean; a contribution that cannot be accepted becomes a part of weight 0."""
        mean, refused = aggregate(self.ledger, pushes, self._screen)
        parts: list[Part] = []
        for worker, push in pushes:
            counts = worker not in refused and push.packet is not None and push.weight > 0
            weight, packet = (push.weight, push.packet) if counts else (0.0, None)
            parts.append(Part(worker, push.clock, weight, staleness, packet, push.speed, push.lr, push.leases))
            if worker in refused:
                out.events.append(Refused(self.fragment, worker, push.clock, refused[worker]))
        self._judge(parts, refused, out)
        return tuple(parts), mean

    def _judge(self, parts: Sequence[Part], refused: Mapping[PeerId, str], out: Out) -> None:
        """Whether one of several workers contributes nothing but what is refused. Where all do, none of them is to blame."""
        if self._strategy.aggregation is Aggregation.ROUND and not any(part.weight > 0 for part in parts):
            return
        # Those that count come last: then what they say of the others is of this round too.
        for part in sorted(parts, key=lambda each: each.worker not in refused) if len(self._members) > 1 else ():
            reason = refused.get(part.worker)
            if (reason is not None or part.weight > 0) and self._screen.strike(part.worker, reason):
                out.events.append(Spoils(self.fragment, part.worker, reason or ""))

    def _rank(self, worker: PeerId) -> tuple[int, PeerId]:
        """In the order of the view; what came from workers that have left since goes last, by name."""
        return self._ranks.get(worker, len(self._members)), worker

    # -------------------------------------------------------------------------------------------- replication

    def _committed(self, after: int, parts: tuple[Part, ...], mean: Packet | None, out: Out, members: int = 0) -> None:
        version = self.ledger.version
        out.events.append(Committed(self.fragment, version, tuple(p.worker for p in parts if p.weight > 0)))
        if self._work is not None:
            self._work.count(version, parts)
        if self._standby is None:
            self._confirm(version, out)
            return
        work = None if self._work is None else self._work.record()
        record = Replicate(self.fragment, version, after, parts, mean, self.ledger.digest(), members, work)
        self._log.append(record)
        out.say(self._standby, record)
        self._answer(out)

    def _for_standby(
        self, parts: tuple[Part, ...], mean: Tensor | None
    ) -> tuple[tuple[Part, ...], Packet | None, Tensor | None]:
        """What a Replicate says of a round, and the mean to commit: the contributions, or their mean where that is fewer bytes,
        or as many and exact."""
        if self._standby is None or mean is None:
            return parts, None, mean
        lean = self._lean(parts)
        apart, together = sum(p.packet.nbytes for p in lean if p.packet is not None), self.ledger.condensed_bytes()
        if apart < together or (apart == together and not self.ledger.exact):
            return lean, None, mean
        condensed, mean = self.ledger.condense(mean)
        return tuple(_bare(part) for part in parts), condensed, mean

    def _lean(self, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        """Without the packet that the standby pushed itself."""
        return tuple(_bare(part) if part.worker == self._standby else part for part in parts)

    def recorded(self, standby: PeerId, version: int, out: Out) -> None:
        """The standby can account for every commit up to `version`."""
        if standby == self._standby:
            self._snapshot_due = False
            self._confirm(min(version, self.ledger.version), out)

    def _confirm(self, version: int, out: Out) -> None:
        self.confirmed = max(self.confirmed, version)
        self._log = [record for record in self._log if record.version > self.confirmed]
        counted = () if self._work is None else self._work.confirm(self.confirmed)
        if counted:
            out.events.append(Counted(counted))
        self._answer(out)
        self._let_go(out)

    def repeat(self, out: Out) -> None:
        """Say again what the standby has not confirmed."""
        if self.unconfirmed:
            out.events.append(Resent(self.fragment))
            self.ask_traces(out)
        if self._standby is not None and self.unconfirmed:
            self._say_unconfirmed(self._standby, out)

    def _say_unconfirmed(self, standby: PeerId, out: Out) -> None:
        if self._snapshot_due:
            out.say(standby, self.snapshot())
            return
        for record in self._log:
            out.say(standby, record)

    def snapshot(self, question: int = 0) -> Snapshot:
        """All that a successor needs. What still waits in the inbox is not in: its workers keep it."""
        clocks = tuple(sorted(self._committed_clocks().items()))
        work = None if self._work is None else self._work.state()
        return Snapshot(self.fragment, question, self.ledger.version, clocks, self.ledger.snapshot(), work)

    def retired(self, me: PeerId) -> Standby:
        """What is held, of an owner that is none any more, in case that it becomes one again."""
        for push in self._inbox.values():
            self._room.leave(push)
        return Standby(self.fragment, self._strategy, self.ledger, self._committed_clocks(), me, self._work, ready=True)

    def _committed_clocks(self) -> dict[PeerId, int]:
        return {worker: clock - (worker in self._inbox) for worker, clock in self.clocks.items()}

    # ------------------------------------------------------------------------------------------------ answers

    def _answer(self, out: Out, only: PeerId | None = None) -> None:
        """Say what may be said to all who wait, or to one."""
        waiting_now = list(self._waiting.items()) if only is None else [(only, self._waiting[only])]
        if self._strategy.aggregation is Aggregation.ROUND:
            for worker, waiting in waiting_now:
                self._answer_in_rounds(worker, waiting, out)
            return
        slow = slowest(self.clocks, self._departures.staying(self._members), 0) if waiting_now else 0
        for worker, waiting in waiting_now:
            ahead = lead(waiting.clock, slow)
            if waiting.version <= self.confirmed and admits(ahead, self._strategy.staleness) and self._has_work(worker):
                del self._waiting[worker]
                self._say_state(worker, waiting, ahead, True, out)

    def _has_work(self, worker: PeerId) -> bool:
        """Whether there is something to do for one that waits, or all is done, or it is to take part all the same."""
        if self._work is None:
            return True
        if not self._work.pool.held_by(worker) and self._work.pool.free:  # another has given it back
            self._work.top_up(worker, self._departures.staying(self._members))
        return not self._work.withholds(worker)

    def _answer_in_rounds(self, worker: PeerId, waiting: Waiting, out: Out) -> None:
        """The state is on its way before the standby has confirmed it, and may be used when that is said."""
        if waiting.offered:
            if waiting.version <= self.confirmed:
                del self._waiting[worker]
                out.say(worker, Stable(self.fragment, waiting.version))
            return
        stable = self.ledger.version <= self.confirmed
        if stable:
            del self._waiting[worker]
        elif waiting.clock == 0:
            return  # a newcomer can wait
        else:
            self._waiting[worker] = Waiting(waiting.clock, self.ledger.version, waiting.staleness, offered=True)
        self._say_state(worker, waiting, 0, stable, out)

    def _say_state(self, worker: PeerId, waiting: Waiting, ahead: int, stable: bool, out: Out) -> None:
        answer = self.ledger.answer(worker, waiting.clock)
        clock = waiting.clock
        if clock == 0 and self._work is not None:
            self._work.newcomer(worker, self._members)
        if clock == 0:  # a newcomer goes on from the round that is open, or beside the slowest
            clock = (
                answer.version
                if self._strategy.aggregation is Aggregation.ROUND
                else slowest(self.clocks, self._departures.staying(self._members), 0)
            )
            if self._strategy.averages:
                self.clocks[worker] = clock
                self._count()
        numbers = (clock, answer.version, waiting.staleness, ahead)
        work = None if self._work is None else self._work.pool.assignment(worker)
        out.say(worker, Params(self.fragment, *numbers, answer.full, stable, answer.packet, work))


def _bare(part: Part) -> Part:
    """Without its packet."""
    return part._replace(packet=None)
