"""The training thread on one side, the protocol and the network on the other.

A thread with an asyncio loop of its own runs the peer, its carrier and the encoders; the training thread hands in
contributions and waits for the state. Tensors cross by reference: a contribution's vector must stay as it is until its state
has come, which is when the replica lets go of it.

A `Listener` has an address, which the others must know before anything can be agreed on; a `SyncClient` takes part.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future

from torch import Tensor

from roadtrain.errors import RoadtrainError, RunFailed, TakenForLost
from roadtrain.lease import Assignment, Leases
from roadtrain.message import (
    Collect,
    Contribute,
    Depart,
    Enter,
    Leave,
    Left,
    Local,
    Push,
    Snapshot,
    ViewChanged,
    Worked,
)
from roadtrain.session.host_copies import Ready
from roadtrain.session.incidents import Incidents
from roadtrain.session.listener import Listener
from roadtrain.sync.drive import turn
from roadtrain.sync.effects import Effects, Evicted, Install, Orphaned, Synced
from roadtrain.sync.peer import Peer
from roadtrain.sync.replica_buffers import ReplicaBuffers
from roadtrain.sync.worker import Contribution
from roadtrain.view import FragmentId, LinkState, PeerId, View
from roadtrain.wire.link_news import LOOK_S, LinkNews
from roadtrain.wire.meter import Meter

RESEND_S = 2.0
"""First repeat of an unanswered question. Streams are reliable while they live, so this only covers broken ones."""
COLLECT_S = 600.0
"""Longest wait for all fragments' snapshots."""


class SyncClient:
    """One process's part in the protocol, behind a few calls that the training thread may make."""

    def __init__(
        self, listener: Listener, peer: Peer, buffers: ReplicaBuffers, fragments: int, incidents: Incidents
    ) -> None:
        """`start` lets the peer take part. `fragments`: how many there are."""
        self.peer, self.buffers = peer, buffers
        self.incidents = incidents
        self.on_synced: Callable[[int, FragmentId, bool], None] = lambda view, fragment, whole: None
        self.on_unreached: Callable[[PeerId, int], None] = lambda peer, incarnation: None
        self.on_links: Callable[[Mapping[PeerId, LinkState], float | None], None] = lambda states, uplink: None
        self._listener, self._carrier = listener, listener.carrier
        self._fragments = fragments
        self._pump: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()
        self._arrived = threading.Condition()
        self._answers: dict[FragmentId, Install] = {}
        self._left: dict[FragmentId, Left] = {}
        self._snapshots: dict[FragmentId, Snapshot] = {}
        self._assigned: deque[Assignment] = deque()
        self._actions: deque[Callable[[], None]] = deque()
        self._failure: RunFailed | None = None
        self._connected: set[PeerId] = set()

    # -------------------------------------------------------------------------------------------- the thread

    def start(self, view: View, addresses: Mapping[PeerId, str]) -> None:
        """Take part in `view`."""

        async def begin() -> None:
            self._carrier.failed = self._disconnected
            self._carrier.join(self.peer.me, self.peer.incarnation)
            self._pump = asyncio.create_task(self._run())
            self._telling = asyncio.create_task(self._tell_links())
            await self._change(view, addresses)

        self._listener.call(begin()).result()

    def rehearse(self, work: Callable[[], None]) -> None:
        """Do `work` on the thread, as memory that was never touched there costs more than the arithmetic in it."""

        async def carry_out() -> None:
            work()

        self._listener.call(carry_out()).result()

    def _disconnected(self, error: BaseException) -> None:
        what = error.line() if isinstance(error, RoadtrainError) else f"{type(error).__name__}: {error}"
        self.fail(f"the connections to the other workers broke: {what}")

    async def _run(self) -> None:
        try:
            while True:
                event = await self._carrier.receive(self.peer.wake_at)
                self._take(turn(self.peer, self._carrier, event))
                if event is None:  # what is waited for has not come
                    self._look_who_is_reached()
        except Exception as error:  # whatever went wrong here must end the training thread's wait
            self.fail(f"the agreement with the other workers broke: {type(error).__name__}: {error}")

    async def _tell_links(self) -> None:
        news = LinkNews()
        while True:
            await asyncio.sleep(LOOK_S)
            if news.look(self._carrier.links(), self._carrier.uplink.rate, self._carrier.now()):
                self.on_links(news.told, news.uplink)

    def _look_who_is_reached(self) -> None:
        """Whoever waits in vain says for whom: again and again, as whoever decides about it may be another one by then."""
        known = self.peer.view.incarnations
        for peer in self._carrier.unreached():
            if peer in known and not self.peer.evicted:
                self.on_unreached(peer, known[peer])

    def _take(self, effects: Effects) -> None:
        if not (effects.installs or effects.left or effects.collected or effects.events or effects.assigned):
            return
        self.incidents.take(effects.events)  # whoever waits may tell of them
        with self._arrived:
            self._assigned.extend(effects.assigned)
            self._answers.update((install.fragment, install) for install in effects.installs)
            self._left.update((left.fragment, left) for left in effects.left)
            self._snapshots.update((snapshot.fragment, snapshot) for snapshot in effects.collected)
            for event in effects.events:
                match event:
                    case Synced(fragment, whole):
                        self.on_synced(self.peer.view.number, fragment, whole)
                    case Evicted():
                        self._failure = TakenForLost("this worker was taken for lost while it was silent")
                    case Orphaned(fragment):
                        lost = f"fragment {fragment} lost its owner and its standby at once"
                        self._failure = RunFailed(lost, "use --resume")
                    case _:
                        pass
            self._arrived.notify_all()

    def fail(self, why: str) -> None:
        """Nothing can be agreed on any more: whoever waits, or will, is told why."""
        with self._arrived:
            self._failure = self._failure or RunFailed(why)
            self._arrived.notify_all()

    async def _change(self, view: View, addresses: Mapping[PeerId, str]) -> None:
        """Go by `view`, after the one before: its connections are being changed, which takes its time."""
        async with self._changing:
            others = {p: a for p, a in addresses.items() if p in view.peers and p != self.peer.me}
            self._carrier.connect(others, view.incarnations)
            self._carrier.deliver(ViewChanged(view))
            gone, self._connected = self._connected - others.keys(), set(others)
            for peer in gone:
                await self._carrier.disconnect(peer)

    # -------------------------------------------------------------------------------------- training thread

    def view(self, view: View, addresses: Mapping[PeerId, str]) -> None:
        """The coordinator announced a view; `addresses` (host:port, or "") of all its members. Any thread may say so."""

        def applied(future: Future[None]) -> None:
            error = None if future.cancelled() else future.exception()
            if error is not None:
                self.fail(f"view {view.number} cannot be entered: {type(error).__name__}: {error}")

        self._listener.call(self._change(view, addresses)).add_done_callback(applied)

    def contribute(self, what: Contribution, value: Tensor, copied: Ready, lr: float = 0.0) -> None:
        """Encode and push a contribution. `value` [numel] is there when `copied` returns, and not touched again by the caller
        until its state has come."""
        fragment, clock, base, samples, speed, leases, steps, _ = what

        def push() -> None:
            copied()
            packet = self.buffers.encode(fragment, value)
            self._deliver(Contribute(Push(fragment, clock, base, samples, packet, speed, lr, leases, steps)))

        self._listener.loop.call_soon_threadsafe(self._in_turn, push)

    def abstain(self, what: Contribution) -> None:
        """Take part in a round without a contribution."""
        push = Push(what.fragment, what.clock, what.base, 0.0, None, steps=what.steps)
        self._listener.loop.call_soon_threadsafe(self._deliver, Contribute(push))

    def arrivals(self, fragments: Collection[FragmentId]) -> Iterator[Install]:
        """The state of each of these fragments, as it comes. Raises RunFailed when one cannot come any more."""
        left = set(fragments)
        while left:
            with self._arrived:
                self._arrived.wait_for(lambda: self._failure or not left.isdisjoint(self._answers))
                self._check()
                come = [self._answers.pop(fragment) for fragment in sorted(left & self._answers.keys())]
            left.difference_update(install.fragment for install in come)
            yield from come

    def enter(self) -> None:
        """Take part from the round that is open, as a newcomer that has the model."""
        self._listener.loop.call_soon_threadsafe(self._deliver, Enter())

    def worked(self, leases: Leases, steps: int) -> Assignment:
        """This worker, which is alone, has computed these in so many steps: what it computes next. Raises RunFailed when that
        cannot be known any more."""
        self._listener.loop.call_soon_threadsafe(self._deliver, Worked(leases, steps))
        with self._arrived:
            self._arrived.wait_for(lambda: self._failure or self._assigned)
            self._check()
            return self._assigned.popleft()

    def leave(self, leaves: Sequence[Leave]) -> list[Left]:
        """Contribute nothing more; waits until nobody does. Raises RunFailed when that cannot be known any more."""
        for leave in leaves:
            self._listener.loop.call_soon_threadsafe(self._in_turn, lambda leave=leave: self._deliver(Depart(leave)))
        with self._arrived:
            self._arrived.wait_for(lambda: self._failure or len(self._left) == len(leaves))
            self._check()
            return [self._left[leave.fragment] for leave in leaves]

    def collect(self, only: FragmentId | None = None) -> list[Snapshot]:
        """A snapshot of every fragment from its owner; or of `only` one."""
        with self._arrived:
            self._snapshots.clear()
        self._listener.loop.call_soon_threadsafe(self._deliver, Collect(only))
        with self._arrived:
            wanted = self._fragments if only is None else 1
            done = self._arrived.wait_for(lambda: self._failure or len(self._snapshots) == wanted, timeout=COLLECT_S)
            self._check()
            if not done:
                raise RunFailed(f"the owners did not give their state within {COLLECT_S:.0f} s")
            return [self._snapshots[fragment] for fragment in sorted(self._snapshots)]

    def settle_accounts(self) -> None:
        """Tell the coordinator what has come in here, and was not told."""
        if self.incidents.accounts is not None:
            self.incidents.accounts.flush()

    def flush(self, timeout_s: float) -> None:
        """Wait until everything sent has arrived."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end and not self._carrier.idle:
            time.sleep(0.01)

    def close(self) -> None:
        """Take part no longer."""
        for task in (self._pump, self._telling):
            if task is not None:
                self._listener.loop.call_soon_threadsafe(task.cancel)
        self.fail("this worker has left")

    @property
    def meter(self) -> Meter:
        """Bytes so far."""
        return self._carrier.meter

    def state_bytes(self) -> int:
        """Bytes that this process holds as owner and standby, and to repeat what owners commit."""
        return self.buffers.state_bytes() + self.peer.state_bytes()

    def owns_everything(self) -> bool:
        """Whether no state has to come over the network."""
        return set(self.peer.view.owners) == {self.peer.me}

    def is_alone(self) -> bool:
        """Whether there is no other worker."""
        return len(self.peer.view.members) == 1

    @property
    def has_failed(self) -> bool:
        """Whether nothing can be agreed on any more."""
        return self._failure is not None

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _deliver(self, event: Local) -> None:
        self._carrier.deliver(event)

    def _in_turn(self, action: Callable[[], None]) -> None:
        """Do it after those before, one for each turn of the loop, so that what is encoded is sent beside the next encoding."""
        self._actions.append(action)
        if len(self._actions) == 1:
            self._listener.loop.call_soon(self._next_action)

    def _next_action(self) -> None:
        try:
            self._actions[0]()
        except Exception as error:  # an encoder's error belongs to the thread that waits
            self.fail(f"{type(error).__name__}: {error}")
        self._actions.popleft()
        if self._actions:
            self._listener.loop.call_soon(self._next_action)
