"""The training thread on one side, the protocol and the network on the other.

A thread with an asyncio loop of its own runs the peer, its carrier and the encoders; the training thread hands in
contributions and waits for the state. Tensors cross by reference: a contribution's vector must stay as it is until its state
has come, which is when the replica lets go of it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from itertools import accumulate
from typing import Any, TypeVar

from torch import Tensor

from roadtrain.codec import Codec
from roadtrain.errors import RunFailed
from roadtrain.message import Collect, Contribute, FragmentId, Local, PeerId, Push, Snapshot, View, ViewChanged
from roadtrain.plan import Link
from roadtrain.sync.drive import turn
from roadtrain.sync.effects import Effects, Evicted, HandedOff, Install, Orphaned, Refused
from roadtrain.sync.fragment import Fragment
from roadtrain.sync.ledger import TensorLedger
from roadtrain.sync.peer import Peer
from roadtrain.sync.replica_buffers import ReplicaBuffers
from roadtrain.sync.strategy import Strategy
from roadtrain.wire import Credentials, GrpcCarrier, Meter

T = TypeVar("T")
RESEND_S = 2.0
"""First repeat of an unanswered question. Streams are reliable while they live, so this only covers broken ones."""
REHEARSED_BYTES = 1 << 28
"""Most bytes of fragments that a rehearsal works on: it should not delay the start of a large model's run."""
COLLECT_S = 600.0
"""Longest wait for all fragments' snapshots."""


class SyncThread:
    """One process's part in the protocol, behind a few calls that any thread may make."""

    def __init__(
        self,
        credentials: Credentials,
        host: str,
        link: Link | None,
        fragments: Sequence[Fragment],
        codecs: tuple[Codec, Codec],
    ) -> None:
        self.mirror = ReplicaBuffers(fragments, *codecs)
        self.events: list[object] = []
        self.refused = 0
        self.handoffs = 0
        self._fragments = fragments
        self._credentials, self._link = credentials, link
        self._loop = asyncio.new_event_loop()
        self._peer: Peer | None = None
        self._carrier: GrpcCarrier | None = None
        self._pump: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="exchange", daemon=True)
        self._arrived = threading.Condition()
        self._installs: dict[FragmentId, Install] = {}
        self._snapshots: dict[FragmentId, Snapshot] = {}
        self._actions: deque[Callable[[], None]] = deque()
        self._failure: str | None = None
        self._addresses: dict[PeerId, str] = {}
        self._thread.start()
        self.port: int = self._call(self._open(host)).result()

    # -------------------------------------------------------------------------------------------- life

    async def _open(self, host: str) -> int:
        # The largest message is a snapshot: values, published values and two moments, and room for a third.
        largest = max((fragment.nbytes for fragment in self._fragments), default=0)
        self._carrier = GrpcCarrier("", self._credentials, self._link, 5 * largest + 1_000_000)
        return await self._carrier.listen(host)

    def start(
        self,
        me: PeerId,
        incarnation: int,
        strategy: Strategy,
        ledger_for: Callable[[FragmentId], TensorLedger],
        clocks: dict[PeerId, int],
    ) -> None:
        """Take part as `me`, from the state that `ledger_for` gives."""

        async def begin() -> None:
            self._peer = Peer(me, incarnation, strategy, ledger_for, RESEND_S, clocks)
            self._pump = asyncio.create_task(self._run())

        self._call(begin()).result()

    def rehearse(self, ledger_for: Callable[[FragmentId], TensorLedger], owned: int) -> None:
        """Do the arithmetic of a round once, on copies, with nothing sent; `owned`: fragments that a worker owns or stands by.

        Memory that was never touched costs more than the arithmetic in it, and the first round would need much of it at once,
        with everybody waiting.
        """

        async def work() -> None:
            packets = [self.mirror.rehearse(number) for number in range(self._count_below(REHEARSED_BYTES))]
            ledgers: list[TensorLedger] = []
            for number, packet in enumerate(packets[:owned]):
                ledgers.append(ledger_for(number))
                _, mean = ledgers[-1].condense(ledgers[-1].aggregate([packet], [1.0]))
                ledgers[-1].commit(mean, 1)

        self._call(work()).result()

    def _count_below(self, limit_bytes: int) -> int:
        """How many fragments, from the first, fit into `limit_bytes`."""
        ends = accumulate(fragment.nbytes for fragment in self._fragments)
        return sum(end <= limit_bytes for end in ends)

    def close(self) -> None:
        """Stop taking part; what is on its way out is given a moment to leave."""

        async def end() -> None:
            if self._pump is not None:
                self._pump.cancel()
            if self._carrier is not None:
                await self._carrier.close()

        self._call(end()).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)

    async def _run(self) -> None:
        assert self._peer is not None
        assert self._carrier is not None
        try:
            while True:
                event = await self._carrier.receive(self._peer.wake_at)
                self._take(turn(self._peer, self._carrier, event))
        except Exception as error:  # whatever went wrong here must end the training thread's wait
            self._fail(f"the exchange broke: {type(error).__name__}: {error}")
            raise

    def _take(self, effects: Effects) -> None:
        if not (effects.installs or effects.collected or effects.events):
            return
        with self._arrived:
            for install in effects.installs:
                self._installs[install.fragment] = install
            for snapshot in effects.collected:
                self._snapshots[snapshot.fragment] = snapshot
            for event in effects.events:
                match event:
                    case Refused():
                        self.refused += 1
                    case HandedOff():
                        self.handoffs += 1
                    case Evicted():
                        self._failure = "this worker was taken for lost while it was silent"
                    case Orphaned(fragment):
                        self._failure = f"fragment {fragment} lost its owner and its standby at once; use --resume"
                    case _:
                        pass
            self._arrived.notify_all()

    def _fail(self, why: str) -> None:
        with self._arrived:
            self._failure = self._failure or why
            self._arrived.notify_all()

    # -------------------------------------------------------------------------------------- training thread

    def view(self, view: View, addresses: Mapping[PeerId, str]) -> Future[None]:
        """Go by `view`; `addresses` (host:port) of all its members. Done when the peer has been told."""

        async def change() -> None:
            assert self._carrier is not None
            assert self._peer is not None
            fresh = {p: a for p, a in addresses.items() if self._addresses.get(p) != a and p != self._peer.me}
            for moved in self._addresses.keys() & fresh.keys():  # it was lost and is back, which we hear at once
                await self._carrier.disconnect(moved)
            self._addresses |= fresh
            self._carrier.connect(fresh)
            self._carrier.deliver(ViewChanged(view))
            for gone in [peer for peer in self._addresses if peer not in view.peers]:
                del self._addresses[gone]
                await self._carrier.disconnect(gone)

        return self._call(change())

    def contribute(
        self, fragment: FragmentId, clock: int, base: int, weight: float, value: Tensor, speed: float
    ) -> None:
        """Encode and push a contribution. `value` [numel] is not touched again by the caller until its state has come."""

        def push() -> None:
            packet = self.mirror.encode(fragment, value)
            self._deliver(Contribute(Push(fragment, clock, base, weight, packet, speed)))

        self._loop.call_soon_threadsafe(self._in_turn, push)

    def abstain(self, fragment: FragmentId, clock: int, base: int) -> None:
        """Take part in a round without a contribution."""
        self._loop.call_soon_threadsafe(self._deliver, Contribute(Push(fragment, clock, base, 0.0, None)))

    def arrivals(self, fragments: Collection[FragmentId]) -> Iterator[Install]:
        """The state of each of these fragments, as it comes. Raises RunFailed when one cannot come any more."""
        left = set(fragments)
        while left:
            with self._arrived:
                self._arrived.wait_for(lambda: self._failure or not left.isdisjoint(self._installs))
                self._check()
                come = [self._installs.pop(fragment) for fragment in sorted(left & self._installs.keys())]
            left.difference_update(install.fragment for install in come)
            yield from come

    def collect(self) -> list[Snapshot]:
        """A snapshot of every fragment from its owner."""
        with self._arrived:
            self._snapshots.clear()
        self._loop.call_soon_threadsafe(self._deliver, Collect())
        with self._arrived:
            done = self._arrived.wait_for(
                lambda: self._failure or len(self._snapshots) == len(self._fragments), timeout=COLLECT_S
            )
            self._check()
            if not done:
                raise RunFailed(f"the owners did not give their state within {COLLECT_S:.0f} s")
            return [self._snapshots[fragment] for fragment in sorted(self._snapshots)]

    def flush(self, timeout_s: float) -> None:
        """Wait until everything sent has left this process."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end and self._carrier is not None and not self._carrier.idle:
            time.sleep(0.01)

    @property
    def meter(self) -> Meter:
        """Bytes so far."""
        assert self._carrier is not None
        return self._carrier.meter

    def state_bytes(self) -> int:
        """Bytes that this process holds as owner and standby, and to repeat what owners commit."""
        return self.mirror.state_bytes() + (0 if self._peer is None else self._peer.state_bytes())

    def owns_everything(self) -> bool:
        """Whether no state has to come over the network."""
        return self._peer is not None and set(self._peer.view.owners) == {self._peer.me}

    def _check(self) -> None:
        if self._failure:
            raise RunFailed(self._failure)

    def _deliver(self, event: Local) -> None:
        assert self._carrier is not None
        self._carrier.deliver(event)

    def _in_turn(self, action: Callable[[], None]) -> None:
        """Do it after those before, one for each turn of the loop, so that what is encoded is sent beside the next encoding."""
        self._actions.append(action)
        if len(self._actions) == 1:
            self._loop.call_soon(self._next_action)

    def _next_action(self) -> None:
        self._guarded(self._actions[0])
        self._actions.popleft()
        if self._actions:
            self._loop.call_soon(self._next_action)

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # an encoder's error belongs to the thread that waits
            self._fail(f"{type(error).__name__}: {error}")

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)


def merge(counts: Counter[int], installs: Sequence[Install]) -> int:
    """Add the staleness of one clock's installs to `counts`; returns the largest lead."""
    counts.update(install.staleness for install in installs)
    return max((install.lead for install in installs), default=0)
