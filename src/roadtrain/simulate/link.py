"""What lies between workers: lanes that take one message after the other, and the ways through them.

Inside a region a message goes through its sender's lane and its receiver's; between regions through other lanes of the two,
and a shared one of the pair of regions. Rates and delays are those of the lanes. A message enters the next lane as soon as
its first byte is there, so an unhindered one takes the time of its slowest lane and all delays.
"""

from __future__ import annotations

from roadtrain.message import Envelope
from roadtrain.plan import Link, Region, Topology
from roadtrain.view import PeerId
from roadtrain.wire.shaper import Shaper


class Lane:
    """One direction of one link. `free_s`: when the last byte that waits for it has left. `delay_s`: after it."""

    __slots__ = ("chunk_bytes", "delay_s", "free_s", "s_per_byte")

    def __init__(self, rate_bytes_per_s: float | None, delay_s: float = 0.0) -> None:
        self.s_per_byte = 0.0 if rate_bytes_per_s is None else 1 / rate_bytes_per_s
        self.delay_s = delay_s
        self.free_s = 0.0
        self.chunk_bytes = Shaper(Link(rate_bytes_per_s, 0.0)).chunk_bytes

    def take(self, size: int, now: float) -> float:
        """Let `size` bytes pass, whose first one is here now; when that first one leaves."""
        begin = self.free_s if self.free_s > now else now
        self.free_s = begin + size * self.s_per_byte
        return begin


Way = tuple[Lane, ...]


class Station:
    """One worker's lanes, and what went over them."""

    def __init__(self, region: Region) -> None:
        self.region = region.name
        self.sent_bytes = 0
        self.received_bytes = 0
        self.receiving_bytes = 0
        self.receiving_s = 0.0
        self.up = Lane(region.inside.rate_bytes_per_s, region.inside.delay_s)
        self.down = Lane(region.inside.rate_bytes_per_s)
        self.up_beyond = Lane(region.up_bytes_per_s)
        self.down_beyond = Lane(region.down_bytes_per_s)
        self._leaving: dict[tuple[PeerId, type, int], tuple[float, tuple[int, int, int]]] = {}

    def begin(self, envelope: Envelope, lane: Lane, size: int, now: float) -> float | None:
        """Let a message onto its first lane; when its first byte leaves. None where the same message still waits to leave:
        the wire's queue takes no second one."""
        if not lane.s_per_byte:
            return lane.take(size, now)
        message = envelope.message
        name = (envelope.destination, type(message), getattr(message, "fragment", -1))
        numbers = (envelope.view, getattr(message, "clock", 0), getattr(message, "version", 0))
        before = self._leaving.get(name)
        if before is not None and before[0] > now and before[1] == numbers:
            return None
        begin = lane.take(size, now)
        self._leaving[name] = lane.free_s, numbers
        return begin


class Links:
    """The lanes of all workers w0, w1, ... of a topology, region by region."""

    def __init__(self, topology: Topology) -> None:
        self._regions = [region for region in topology.regions for _ in range(region.workers)]
        self.stations: dict[PeerId, Station] = {f"w{i}": Station(region) for i, region in enumerate(self._regions)}
        self._between = {pair: Lane(link.rate_bytes_per_s, link.delay_s) for pair, link in topology.between.items()}

    def add(self, index: int) -> None:
        """A station for one more worker, in the region of the worker that has its place in the first round of numbers."""
        self.stations[f"w{index}"] = Station(self._regions[index % len(self._regions)])

    def way(self, source: Station, to: PeerId) -> Way:
        """The lanes from sender to receiver."""
        destination = self.stations[to]
        if source.region == destination.region:
            return source.up, destination.down
        return source.up_beyond, self._between[source.region, destination.region], destination.down_beyond


def overtaking_s(size: int, way: Way) -> float:
    """Seconds that a message is under way which waits for nobody."""
    slowest = delay_s = 0.0
    for lane in way:
        delay_s += lane.delay_s
        if lane.s_per_byte > slowest:
            slowest = lane.s_per_byte
    return size * slowest + delay_s
