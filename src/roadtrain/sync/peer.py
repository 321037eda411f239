"""A peer: the replica, and the owner or standby of some fragments, of one process, behind one `step`.

It fences (nothing from an older view gets in), routes, and delivers what is meant for itself at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import assert_never

from roadtrain.codec import Packet
from roadtrain.errors import PacketError
from roadtrain.message import (
    BatchReply,
    BatchRequest,
    Collect,
    Contribute,
    Depart,
    Enter,
    Envelope,
    Fetch,
    Leave,
    Left,
    Local,
    Nack,
    Outdated,
    Params,
    Pull,
    Push,
    Remote,
    Replicate,
    Replicated,
    Snapshot,
    Stable,
    Tick,
    Trace,
    Traced,
    ViewChanged,
    Worked,
)
from roadtrain.sync.dealer import Dealer, WorkTerms
from roadtrain.sync.effects import Effects, Evicted, Install, Orphaned, Out, Refused
from roadtrain.sync.ledger import TensorLedger
from roadtrain.sync.owner import Owner
from roadtrain.sync.replica import Replica
from roadtrain.sync.retransmit import Timer
from roadtrain.sync.room import Room
from roadtrain.sync.standby import Standby
from roadtrain.sync.strategy import Strategy
from roadtrain.view import FragmentId, PeerId, View

EARLY_MAX = 4096
"""Messages of a view that has not reached us yet which are kept until it does; more are dropped, and will be repeated."""


def _accept_any(fragment: FragmentId, packet: Packet, full: bool) -> None:
    """Whoever loads the states looks at them."""


class Peer:
    """All roles of one process. `ledger_for` makes the ledger of a fragment at the state that the run starts from.

    `clocks`: contributions of each worker that are in that state (empty for a fresh run). `resend_s`: as of `Timer`.
    `evicted`: the current view is without this peer. `accepts` raises PacketError for an answer that is no state of the fragment.
    `room`: for contributions that wait; there is enough where it is None. `work`: that the run gives out, if it does.
    """

    def __init__(
        self,
        me: PeerId,
        incarnation: int,
        strategy: Strategy,
        ledger_for: Callable[[FragmentId], TensorLedger],
        resend_s: float,
        clocks: dict[PeerId, int] | None = None,
        accepts: Callable[[FragmentId, Packet, bool], None] = _accept_any,
        room: Room | None = None,
        work: WorkTerms | None = None,
    ) -> None:
        self.me = me
        self.view = View(0, (), (), ())
        self.evicted = False
        self.replica = Replica(me)
        self.incarnation = incarnation
        self._known: Mapping[PeerId, int] = {}
        self._strategy = strategy
        self._ledger_for = ledger_for
        self._timer = Timer(resend_s)
        self._clocks = clocks or {}
        self._accepts = accepts
        self._room = room or Room()
        self._work = work
        self._owners: dict[FragmentId, Owner] = {}
        self._standbys: dict[FragmentId, Standby] = {}
        self._retired: dict[FragmentId, Standby] = {}
        """Of fragments that another peer is to stand by for, while it may not hold them yet."""
        self._holders: dict[FragmentId, PeerId] = {}
        """Who owned each fragment in the view before."""
        self._unconfirmed: set[FragmentId] = set()
        self._collecting: set[FragmentId] = set()
        self._question = 0
        self._early: deque[Envelope] = deque(maxlen=EARLY_MAX)

    @property
    def wake_at(self) -> float | None:
        """When this peer wants a `Tick`."""
        return self._timer.wake_at

    def owner(self, fragment: FragmentId) -> Owner | None:
        """The owner of `fragment`, if it lives here."""
        return self._owners.get(fragment)

    def stands_by(self, fragment: FragmentId) -> bool:
        """Whether this peer could take the fragment over now."""
        standby = self._standbys.get(fragment)
        return standby is not None and standby.ready

    def state_bytes(self) -> int:
        """Bytes of parameters that are held here as owner or standby, optimizer state included."""
        roles = [*self._owners.values(), *self._standbys.values()]
        return sum(role.ledger.state_bytes() for role in roles)

    def step(self, event: Envelope | Local, now: float) -> Effects:
        """Take in one message or local event at time `now` (seconds); everything that follows from it is returned."""
        effects = Effects()
        match event:
            case Envelope():
                self._receive(event, effects)
            case Contribute(push):
                self._contribute(push, effects)
            case Depart(leave):
                self._run(lambda out: self.replica.leave(leave, out), effects)
            case Worked():
                self._worked(event, effects)
            case ViewChanged(view):
                self._enter(view, effects)
            case Enter():
                self._run(lambda out: self.replica.begin(self.view, out), effects)
            case Collect(only):
                self._collect(effects, only)
            case Tick():
                self._repeat(effects)
            case _:
                assert_never(event)
        waits = bool(self.replica.outstanding or self._unconfirmed or self._collecting)
        self._timer.set(event, effects, waits and not self.evicted, now)
        return effects

    # ------------------------------------------------------------------------------------------------ fencing

    def _receive(self, envelope: Envelope, effects: Effects) -> None:
        message = envelope.message
        if isinstance(message, BatchRequest | BatchReply):
            effects.events.append(Refused(-1, envelope.source, 0, "no message of this protocol"))
        elif isinstance(message, Outdated):
            self._outdated(envelope.source, message.number, effects)
        elif envelope.view > self.view.number:
            self._early.append(envelope)
        elif envelope.view < self.view.number or not self._is_member(envelope):
            self._send(envelope.source, Outdated(self.view.number), effects)
        elif not self.evicted:
            self._accept(envelope.source, message, effects)

    def _accept(self, source: PeerId, message: Remote, effects: Effects) -> None:
        """Let a message in, unless it cannot be what an honest peer says: then it is refused, and asked for again if need be."""
        fragment = -1 if isinstance(message, Outdated) else message.fragment
        try:
            if not 0 <= fragment < len(self.view.owners):
                raise PacketError(f"there is no fragment {fragment}")
            if isinstance(message, Params | Left) and message.packet is not None:
                self._accepts(fragment, message.packet, isinstance(message, Left) or message.full)
            self._dispatch(source, message, effects)
        except PacketError as error:
            effects.events.append(Refused(fragment, source, 0, str(error)))

    def _is_member(self, envelope: Envelope) -> bool:
        return self.view.incarnations.get(envelope.source) == envelope.incarnation

    def _outdated(self, source: PeerId, number: int, effects: Effects) -> None:
        """What was sent to `source` is refused. If it is in a later view, the coordinator will tell of that; no peer can."""
        if number <= self.view.number and not self.evicted:
            self._run(lambda out: self.replica.probe(out, source), effects)

    def _enter(self, view: View, effects: Effects) -> None:
        if view.number <= self.view.number:
            return
        first = view.number == 1  # later ones give what only a standby can have
        newcomer = self.view.number == 0 and not first
        self._holders = dict(enumerate(self.view.owners))
        before, self.view = self.view, view
        self._forget_returned(before)
        self.evicted = view.incarnations.get(self.me) != self.incarnation
        if self.evicted:
            effects.events.append(Evicted(view.number))
            return
        for fragment, (owner, standby) in enumerate(zip(view.owners, view.standbys, strict=True)):
            self._assign(fragment, owner, standby, first, effects)
        if 0 in self._owners:
            self._run(self._owners[0].ask_traces, effects, 0)
        for push in self.replica.pushes():
            self._keep(push)
        self._run(lambda out: self.replica.join(view, out), effects)
        if newcomer and not self._strategy.averages:  # else it needs the model first, and says Enter
            self._run(lambda out: self.replica.begin(view, out), effects)
        early, self._early = self._early, deque(maxlen=EARLY_MAX)
        for envelope in early:
            self._receive(envelope, effects)

    def _forget_returned(self, before: View) -> None:
        """Whoever comes back after it was lost is a newcomer: what it did before says nothing about it now. A peer that is
        a newcomer itself may never have seen it, and yet have been given what it did."""
        here, known = self.view.incarnations, self._known
        came = set(here) - set(before.peers) if before.number else set[PeerId]()
        returned = [peer for peer, number in here.items() if peer in came or known.get(peer, number) != number]
        self._known = {**known, **here} if known else here
        for role in (*self._owners.values(), *self._standbys.values(), *self._retired.values()):
            for peer in returned:
                role.forget(peer)

    def _assign(
        self, fragment: FragmentId, owner: PeerId, standby: PeerId | None, first: bool, effects: Effects
    ) -> None:
        """Take up or lay down the roles that the view gives this peer for one fragment."""
        was = self._holding(fragment)
        self._retire(fragment, owner, standby)
        if owner == self.me:
            promoted = fragment not in self._owners and not first
            if promoted and was is None:
                effects.events.append(Orphaned(fragment))
                return
            if fragment not in self._owners:
                ledger = self._ledger_for(fragment) if was is None else was.ledger
                clocks = self._first_clocks() if was is None else was.clocks
                twin = standby if first else None
                work = self._first_work(fragment, first=first) if was is None else was.work
                self._owners[fragment] = Owner(
                    fragment, self._strategy, ledger, clocks, twin, self._room, work, given_out=self._work is not None
                )
            role = self._owners[fragment]
            self._run(lambda out: role.join(self.view, out, promoted=promoted), effects, fragment)
            return
        self._owners.pop(fragment, None)
        if standby == self.me and fragment not in self._standbys:
            work = self._first_work(fragment, first=first)
            self._standbys[fragment] = Standby(
                fragment, self._strategy, self._ledger_for(fragment), self._first_clocks(), self.me, work, ready=first
            )

    def _first_work(self, fragment: FragmentId, *, first: bool) -> Dealer | None:
        """The work that the run begins with, at the peers that know of it."""
        if fragment != 0 or self._work is None:
            return None
        dealer = Dealer(self._work, self._strategy, len(self.view.owners))
        if first:
            dealer.begin(self.view.peers)
        return dealer

    def _holding(self, fragment: FragmentId) -> Standby | None:
        """What this peer could take the fragment over with."""
        held = (self._standbys.get(fragment), self._retired.get(fragment))
        return next((each for each in held if each is not None and each.ready), None)

    def _retire(self, fragment: FragmentId, owner: PeerId, standby: PeerId | None) -> None:
        """Lay down a role that the view gives to another peer which lives; but keep what is held until that one has it.

        Nothing is acknowledged before, so the view may still give the fragment to this peer.
        """
        owned = self._owners.get(fragment)
        stood = self._standbys.pop(fragment, None) if standby != self.me else None
        if owner == self.me:
            self._retired.pop(fragment, None)
        elif owned is not None:
            self._retired[fragment] = owned.retired(self.me)
        elif owner != self._holders.get(fragment):
            self._retired.pop(fragment, None)
        elif stood is not None and stood.ready:
            self._retired[fragment] = stood

    def _first_clocks(self) -> dict[PeerId, int]:
        """Everybody of the first view takes part from the start."""
        return dict.fromkeys(self.view.peers, 0) | self._clocks

    # ------------------------------------------------------------------------------------------------ routing

    def _dispatch(self, source: PeerId, message: Remote, effects: Effects) -> None:
        """To the role it is for. Where this peer does not have that role, the sender learns the view and asks elsewhere."""
        match message:
            case Params():
                self._installed(self.replica.params(message), effects)
            case Stable():
                self._installed(self.replica.stable(message), effects)
            case Traced():
                if 0 in self._owners:
                    asked = self._owners[0]
                    self._run(lambda out: asked.traced(message, out), effects, 0)
            case Push() | Pull() | Fetch() | Leave() | Replicated() | Trace():
                owner = self._owners.get(message.fragment)
                if owner is not None:
                    self._to_owner(owner, source, message, effects)
            case Replicate():
                standby = self._standbys.get(message.fragment)
                if standby is not None:
                    self._run(lambda out: standby.record(source, message, out), effects)
            case Left():
                left = self.replica.left(message)
                effects.left += [] if left is None else [left]
            case Snapshot():
                self._snapshot(source, message, effects)
            case Nack():
                self._run(lambda out: self.replica.missing(message, out), effects)
            case Outdated():
                pass  # `_receive` has taken it
            case _:
                assert_never(message)

    def _to_owner(
        self, owner: Owner, source: PeerId, message: Push | Pull | Fetch | Leave | Replicated | Trace, effects: Effects
    ) -> None:
        match message:
            case Push():
                self._run(lambda out: owner.push(source, message, out), effects, message.fragment)
            case Pull():
                self._run(lambda out: owner.pull(source, message.clock, out), effects, message.fragment)
            case Replicated():
                self._run(lambda out: owner.recorded(source, message.version, out), effects, message.fragment)
            case Fetch():
                self._send(source, owner.snapshot(message.question), effects)
            case Trace():
                self._send(source, owner.trace(message.worker), effects)
            case Leave():
                self._run(lambda out: owner.leave(source, message, out), effects, message.fragment)

    def _installed(self, install: Install | None, effects: Effects) -> None:
        if install is not None:
            effects.installs.append(install)

    def _snapshot(self, source: PeerId, message: Snapshot, effects: Effects) -> None:
        standby = self._standbys.get(message.fragment)
        if message.question == self._question and message.fragment in self._collecting:
            self._collecting.discard(message.fragment)
            effects.collected.append(message)
        if standby is not None and source == self.view.owners[message.fragment]:
            self._run(lambda out: standby.snapshot(source, message, out), effects)
            self._retired.pop(message.fragment, None)

    def _worked(self, worked: Worked, effects: Effects) -> None:
        """What this worker, which is alone, has computed is in at once."""
        owner = self._owners.get(0)
        if owner is not None:
            out = Out()
            given = owner.worked(self.me, worked, out)
            effects.events += out.events
            effects.assigned += [] if given is None else [given]

    def _contribute(self, push: Push, effects: Effects) -> None:
        self._keep(push)
        self._run(lambda out: self.replica.contribute(push, out), effects)

    def _keep(self, push: Push) -> None:
        standby = self._standbys.get(push.fragment)
        if standby is not None:
            standby.keep(push)

    def _collect(self, effects: Effects, only: FragmentId | None) -> None:
        """What is stood by here need not travel: a replica that was answered has its standby's Records up to there."""
        self._question += 1
        self._collecting = set(range(len(self.view.owners))) if only is None else {only}
        for fragment, standby in self._standbys.items():
            if standby.ready and fragment in self._collecting:
                self._collecting.discard(fragment)
                effects.collected.append(standby.as_snapshot(self._question))
        self._fetch(effects)

    def _fetch(self, effects: Effects) -> None:
        for fragment in sorted(self._collecting):
            self._send(self.view.owners[fragment], Fetch(fragment, self._question), effects)

    def _run(self, role: Callable[[Out], None], effects: Effects, fragment: FragmentId | None = None) -> None:
        """Let one role act, then route what it said; what it said to this very peer arrives at once."""
        out = Out()
        role(out)
        effects.events += out.events
        if fragment is not None:
            owner = self._owners.get(fragment)
            (self._unconfirmed.add if owner is not None and owner.unconfirmed else self._unconfirmed.discard)(fragment)
        for destination, message in out.messages:
            self._send(destination, message, effects)

    def _send(self, destination: PeerId, message: Remote, effects: Effects) -> None:
        if destination == self.me:
            self._dispatch(self.me, message, effects)
        else:
            effects.sends.append(Envelope(self.me, destination, self.incarnation, self.view.number, message))

    def _repeat(self, effects: Effects) -> None:
        self._timer.ring()
        self._run(self.replica.probe, effects)
        for fragment in sorted(self._unconfirmed):
            role = self._owners.get(fragment)
            if role is not None:
                self._run(role.repeat, effects, fragment)
        self._fetch(effects)
