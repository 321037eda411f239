"""Who may connect, and how long somebody may stand there who has not shown that it may be: sans-IO, time is handed in.

| a connection is | until |
|---|---|
| waiting | somebody shows a ticket, a machine's secret or a run's (`prove`); it ends; or it has waited too long |
| proven | it ends: nothing is asked of it here any more |

Of each address failures are counted, not successes: many honest machines may share one. A failure is a connection that ended
without having proven anything, or a request that was refused. An address that has failed too often is not let in, before anything
is spent on it, unless somebody there has proven something of late. Waiting connections are bounded in number: when there are too
many, the one that has waited longest goes, so that those who only hold connections open starve nobody.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import ip_address

WAITING_MAX = 1000
"""As many may come at once where a fleet's machines all start; each costs some 60 KB."""
WAIT_S = 10.0
FAILURES, REFILL_S = 60.0, 1.0
"""So many failures in a row are borne, and one more every so many seconds."""
KNOWN_S = 3600.0
"""Whoever has proven something speaks for its address for so long."""
ADDRESSES_MAX = 4096
Key = tuple[str, int]
"""Address and port of the other end."""


@dataclass(slots=True)
class Bucket:
    """Failures that an address has left at `at_s`; `known_s`: until when somebody there is known."""

    left: float
    at_s: float
    known_s: float = 0.0


class Lobby:
    """All that wait, and what is held against addresses."""

    def __init__(self, waiting_max: int = WAITING_MAX) -> None:
        self._waiting_max = waiting_max
        self._waiting: OrderedDict[Key, float] = OrderedDict()
        """Since when, the longest first."""
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        """By address; the one that was used last is the last."""

    def __len__(self) -> int:
        return len(self._waiting)

    def admits(self, address: str, now: float) -> bool:
        """Whether a connection from there is let in."""
        if ip_address(address).is_loopback:
            return True
        bucket = self._buckets.get(_network(address))
        return bucket is None or bucket.known_s > now or self._filled(bucket, now) >= 1

    def enter(self, key: Key, now: float) -> list[Key]:
        """A connection stands. Which are to be closed for it."""
        self._waiting[key] = now
        return [self._waiting.popitem(last=False)[0] for _ in range(len(self._waiting) - self._waiting_max)]

    def prove(self, key: Key, now: float) -> None:
        """Who is there may be."""
        if self._waiting.pop(key, None) is not None:
            self._bucket(key[0], now).known_s = now + KNOWN_S

    def failed(self, address: str, now: float) -> None:
        """Somebody there was refused, or has said what makes no sense."""
        bucket = self._bucket(address, now)
        bucket.left = max(0.0, self._filled(bucket, now) - 1)
        bucket.at_s = now

    def ended(self, key: Key, now: float) -> None:
        """A connection has ended. One that still waited has failed."""
        if self._waiting.pop(key, None) is not None:
            self.failed(key[0], now)

    def overdue(self, now: float) -> list[Key]:
        """Connections that have waited too long: they have failed, and are to be closed."""
        found: list[Key] = []
        while self._waiting and next(iter(self._waiting.values())) < now - WAIT_S:
            key, _ = self._waiting.popitem(last=False)
            self.failed(key[0], now)
            found.append(key)
        return found

    @staticmethod
    def _filled(bucket: Bucket, now: float) -> float:
        return min(FAILURES, bucket.left + (now - bucket.at_s) / REFILL_S)

    def _bucket(self, address: str, now: float) -> Bucket:
        network = _network(address)
        bucket = self._buckets.setdefault(network, Bucket(FAILURES, now))
        self._buckets.move_to_end(network)
        if len(self._buckets) > ADDRESSES_MAX:
            self._buckets.popitem(last=False)
        return bucket


def _network(address: str) -> str:
    """Of IPv6 the first 64 bits: whoever has one address has all of those."""
    return address if ":" not in address else ip_address(address.partition("%")[0]).exploded[:19]
