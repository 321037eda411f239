"""The virtual carrier: an inbox on the virtual clock, and a network that delays, loses, doubles and reorders."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random

from roadtrain.message import Envelope, Local, PeerId
from roadtrain.simulate.clock import Signal, VirtualClock
from roadtrain.simulate.faults import Faults
from roadtrain.simulate.link import Links


class VirtualCarrier:
    """One peer's inbox and way out."""

    def __init__(self, clock: VirtualClock, transmit: Callable[[Envelope], None]) -> None:
        self._clock = clock
        self._transmit = transmit
        self._inbox: deque[Envelope | Local] = deque()
        self._waiting: Signal | None = None
        self._frozen: Signal | None = None

    def freeze(self) -> None:
        """The process stands still: what arrives waits."""
        self._frozen = Signal()

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
        if self._waiting is not None:
            self._waiting.set()

    async def receive(self, until: float | None) -> Envelope | Local | None:
        """The next event, or None when the time `until` has come."""
        if not self._inbox:
            signal = self._waiting = Signal()
            if until is not None:
                self._clock.at(until, signal.set)
            await signal
            self._waiting = None
        await self.awake()
        return self._inbox.popleft() if self._inbox else None


class Network:
    """All carriers of a simulation and what lies between them."""

    def __init__(self, clock: VirtualClock, links: Links, faults: Faults, random: Random) -> None:
        self._clock = clock
        self._links = links
        self._faults = faults
        self._random = random
        self.carriers: dict[PeerId, VirtualCarrier] = {}
        self.silent: set[PeerId] = set()
        self.lost = 0
        self.doubled = 0

    def attach(self, peer: PeerId) -> VirtualCarrier:
        """The carrier of `peer`."""
        carrier = self.carriers[peer] = VirtualCarrier(self._clock, self._transmit)
        return carrier

    def _transmit(self, envelope: Envelope) -> None:
        if envelope.source in self.silent:
            return
        copies = 1
        if self._random.random() < self._faults.loss:
            copies, self.lost = 0, self.lost + 1
        elif self._random.random() < self._faults.duplicate:
            copies, self.doubled = 2, self.doubled + 1
        for _ in range(copies):
            arrival = self._links.arrival(envelope, self._clock.now)
            self._clock.at(arrival + self._random.random() * self._faults.jitter_s, lambda: self._arrive(envelope))

    def _arrive(self, envelope: Envelope) -> None:
        if envelope.destination not in self.silent:
            self.carriers[envelope.destination].deliver(envelope)
