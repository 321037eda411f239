"""What a peer needs to be driven, and the one turn that drives it: on real hosts and on the virtual clock."""

from __future__ import annotations

from typing import Protocol

from roadtrain.message import Envelope, Local, Tick
from roadtrain.sync.effects import Effects
from roadtrain.sync.peer import Peer


class Carrier(Protocol):
    """Tells time and moves envelopes; knows no strategy. What it brings, and the time that its peer wanted, begins a turn."""

    def now(self) -> float:
        """Seconds on this carrier's clock."""
        ...

    def send(self, envelope: Envelope) -> None:
        """Never blocks; may lose, double or reorder."""
        ...


def turn(peer: Peer, carrier: Carrier, event: Envelope | Local | None) -> Effects:
    """Step the machine with what came, None when it is time (`Peer.wake_at`), and send what it says."""
    effects = peer.step(Tick() if event is None else event, carrier.now())
    for envelope in effects.sends:
        carrier.send(envelope)
    return effects
