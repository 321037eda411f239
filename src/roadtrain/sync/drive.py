"""Carriers, and the only pump. Real hosts and the virtual clock run the same four lines."""

from __future__ import annotations

from typing import Protocol

from roadtrain.message import Envelope, Local, Tick
from roadtrain.sync.machine import Effects
from roadtrain.sync.peer import Peer


class Carrier(Protocol):
    """Tells time and moves envelopes; knows no strategy."""

    def now(self) -> float:
        """Seconds on this carrier's clock."""
        ...

    def send(self, envelope: Envelope) -> None:
        """Never blocks; may lose, double or reorder."""
        ...

    async def receive(self, until: float | None) -> Envelope | Local | None:
        """What comes next: an envelope, a local event, or None when the time `until` has come."""
        ...


async def advance(peer: Peer, carrier: Carrier) -> Effects:
    """One step: wait for an event or the timer, step the machine, send what it says."""
    event = await carrier.receive(peer.wake_at)
    effects = peer.step(Tick() if event is None else event, carrier.now())
    for envelope in effects.sends:
        carrier.send(envelope)
    return effects
