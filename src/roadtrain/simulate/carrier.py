"""The virtual carrier: an inbox on the virtual clock, and a network that delays, loses, doubles and reorders."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from random import Random
from typing import TypeAlias

from roadtrain.message import CONTROL, Envelope, Local
from roadtrain.simulate.clock import Signal, VirtualClock
from roadtrain.simulate.faults import Faults
from roadtrain.simulate.link import Links, Way, overtaking_s
from roadtrain.simulate.size import message_bytes
from roadtrain.sync.drive import turn
from roadtrain.sync.effects import Effects
from roadtrain.sync.peer import Peer
from roadtrain.view import PeerId

End: TypeAlias = Callable[[Envelope, int], None]
"""What is done with a message of so many bytes when the last of them is there."""


class VirtualCarrier:
    """One peer's inbox and way out. What arrives is dealt with at once, unless the peer is in the middle of something else or its
    process stands still."""

    def __init__(self, clock: VirtualClock, transmit: Callable[[Envelope], None]) -> None:
        self._clock = clock
        self._transmit = transmit
        self._inbox: deque[Envelope | Local] = deque()
        self._idle = False
        self._frozen: Signal | None = None
        self._alarm_s: float | None = None
        self._peer: Peer
        self._took: Callable[[Effects], bool]

    def begin(self, peer: Peer, took: Callable[[Effects], bool]) -> None:
        """Step `peer` with all that arrives, until `took`, which is told of what that brings about, says that it is over."""
        self._peer, self._took = peer, took
        self._idle = True
        if self._inbox:
            self._go_on()

    def freeze(self) -> None:
        """The process stands still: what arrives waits."""
        self._frozen = self._frozen or Signal()

    def thaw(self) -> None:
        """The process goes on where it stood."""
        frozen, self._frozen = self._frozen, None
        if frozen is not None:
            frozen.set()

    async def awake(self) -> None:
        """Wait while the process stands still."""
        if self._frozen is not None:
            await self._frozen

    def now(self) -> float:
        """Seconds of virtual time."""
        return self._clock.now

    def send(self, envelope: Envelope) -> None:
        """Hand over to the network."""
        self._transmit(envelope)

    def deliver(self, event: Envelope | Local) -> None:
        """Put a message or a local event into the inbox."""
        self._inbox.append(event)
        if self._idle:
            self._go_on()

    def _go_on(self) -> None:
        """Step the peer with all that has arrived; because it is time, when nothing has."""
        self._idle = False
        if self._frozen is not None:
            self._frozen.on_set(self._go_on)
            return
        inbox = self._inbox
        while self._took(turn(self._peer, self, inbox.popleft() if inbox else None)):
            if not inbox:
                self._idle = True
                self._set_alarm()
                return

    def _set_alarm(self) -> None:
        """One alarm stands at a time: a message must not cost an entry of the clock for the answer that may not come."""
        time = self._peer.wake_at
        if time is not None and (self._alarm_s is None or time < self._alarm_s):
            self._alarm_s = time
            self._clock.at(time, self._ring, time)

    def _ring(self, time: float) -> None:
        if time != self._alarm_s:
            return  # an earlier one was set since
        self._alarm_s = None
        wake_at = self._peer.wake_at
        if not self._idle or wake_at is None:
            return
        if wake_at <= self._clock.now:
            self._go_on()
        else:
            self._set_alarm()


class Network:
    """All carriers of a simulation and what lies between them."""

    def __init__(self, clock: VirtualClock, links: Links, faults: Faults, random: Random) -> None:
        self._clock = clock
        self._links = links
        self._faults = faults
        self._lossy = faults.loss > 0 or faults.duplicate > 0
        self._faulty = self._lossy or faults.jitter_s > 0
        self._random = random
        self.carriers: dict[PeerId, VirtualCarrier] = {}
        self.silent: set[PeerId] = set()
        self.sides: list[frozenset[PeerId]] = []
        """Of every partition that stands, the peers on one side."""
        self.lost = 0
        self.doubled = 0

    def attach(self, peer: PeerId) -> VirtualCarrier:
        """The carrier of `peer`."""
        carrier = self.carriers[peer] = VirtualCarrier(self._clock, self._transmit)
        return carrier

    def _transmit(self, envelope: Envelope) -> None:
        if envelope.source in self.silent:
            return
        now, station = self._clock.now, self._links.stations[envelope.source]
        way = self._links.way(station, envelope.destination)
        first = way[0]
        size = message_bytes(envelope, first.chunk_bytes)
        if type(envelope.message) in CONTROL:
            self._clock.at(now + overtaking_s(size, way), self._end(), envelope, size)
        else:
            begin = station.begin(envelope, first, size, now)
            if begin is None:
                return
            last = first.free_s + first.delay_s
            self._clock.at(begin + first.delay_s, self._pass, envelope, size, self._end(), way, 1, last)
        station.sent_bytes += size

    def _pass(self, envelope: Envelope, size: int, end: End, way: Way, stage: int, last: float) -> None:
        """The first byte is at the lane number `stage`, where the last one cannot be before `last`."""
        lane = way[stage]
        begin = lane.take(size, self._clock.now)
        last = max(last, lane.free_s) + lane.delay_s
        if stage + 1 < len(way):
            self._clock.at(begin + lane.delay_s, self._pass, envelope, size, end, way, stage + 1, last)
            return
        station = self._links.stations[envelope.destination]
        station.receiving_bytes += size
        station.receiving_s += last - begin
        if last > self._clock.now:
            self._clock.at(last, end, envelope, size)
        else:
            end(envelope, size)

    def _end(self) -> End:
        return partial(self._arrive, self._copies()) if self._faulty else self._deliver

    def _copies(self) -> int:
        """How often a message arrives; what is lost has left its sender all the same."""
        if not self._lossy:
            return 1
        if self._random.random() < self._faults.loss:
            self.lost += 1
            return 0
        if self._random.random() < self._faults.duplicate:
            self.doubled += 1
            return 2
        return 1

    def _arrive(self, copies: int, envelope: Envelope, size: int) -> None:
        for _ in range(copies):
            if self._faults.jitter_s:
                late = self._random.random() * self._faults.jitter_s
                self._clock.at(self._clock.now + late, self._deliver, envelope, size)
            else:
                self._deliver(envelope, size)

    def _deliver(self, envelope: Envelope, size: int) -> None:
        if self.sides and self._parted(envelope.source, envelope.destination):
            self.lost += 1
        elif envelope.destination not in self.silent:
            self._links.stations[envelope.destination].received_bytes += size
            self.carriers[envelope.destination].deliver(envelope)

    def _parted(self, one: PeerId, other: PeerId) -> bool:
        return any((one in side) != (other in side) for side in self.sides)
