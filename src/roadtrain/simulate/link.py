"""Links and machines: how long a message takes, and how long a step."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from roadtrain.message import Envelope, PeerId, packets
from roadtrain.plan import Straggler

HEADER_BYTES = 64
"""What a message costs besides its packets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The machines of a simulation. `step_s`: seconds of one local step at speed 1. `rate_bytes_per_s` None: unlimited."""

    workers: int
    step_s: float = 0.1
    speeds: tuple[float, ...] = ()
    rate_bytes_per_s: float | None = None
    delay_s: float = 0.01
    stragglers: tuple[Straggler, ...] = ()

    def step_time(self, worker: int, step: int, random: Random) -> float:
        """Seconds that this step takes on this machine, stragglers included."""
        base = self.step_s / (self.speeds[worker] if self.speeds else 1.0)
        extra = [s.delay_s(step, base, random.gauss(0.0, 1.0)) for s in self.stragglers if s.worker == worker]
        return base + sum(extra)


class Links:
    """First in, first out through the sender's uplink, then the delay, then the receiver's downlink."""

    def __init__(self, fleet: Fleet) -> None:
        self._rate = fleet.rate_bytes_per_s
        self._delay_s = fleet.delay_s
        self._up_free: dict[PeerId, float] = {}
        self._down_free: dict[PeerId, float] = {}
        self.sent_bytes: dict[PeerId, int] = {}

    def arrival(self, envelope: Envelope, now: float) -> float:
        """When a message sent now is there, in seconds of virtual time."""
        size = HEADER_BYTES + sum(packet.nbytes for packet in packets(envelope.message))
        self.sent_bytes[envelope.source] = self.sent_bytes.get(envelope.source, 0) + size
        if self._rate is None:
            return now + self._delay_s
        busy = size / self._rate
        sent = self._up_free[envelope.source] = max(now, self._up_free.get(envelope.source, 0.0)) + busy
        first = sent - busy + self._delay_s
        there = max(first, self._down_free.get(envelope.destination, 0.0)) + busy
        self._down_free[envelope.destination] = there
        return there
