"""A thread with a loop, on which one process listens to its peers: the half of `SyncClient` that is there before it is known
who they are."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import torch

from roadtrain.plan import Link
from roadtrain.session.cpu_threads import use_threads
from roadtrain.view import PeerId
from roadtrain.wire.address import joined
from roadtrain.wire.carrier import GrpcCarrier
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.limits import Limits
from roadtrain.wire.relay import Relay
from roadtrain.wire.state_transfer import Giver

T = TypeVar("T")
TRANSFER_S = 120.0
"""Longest wait for a whole state from another worker."""
IDLE_CORES = 4
"""Most threads that encode beside a GPU."""
CLOSE_S = 10.0
"""Longest wait for the thread to end."""


class Listener:
    """A thread with a loop, and a server. `address`: where the others can dial it (host:port); "" where they cannot. `open` makes
    it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: threading.Thread, carrier: GrpcCarrier, address: str):
        self.loop, self.carrier, self.address = loop, carrier, address
        self._thread = thread

    @classmethod
    def open(
        cls,
        credentials: Credentials,
        host: str | None,
        link: Link | None,
        limits: Limits,
        device: torch.device,
        relay: Relay | None = None,
    ) -> Listener:
        """Listen on a free port of `host`; None: on none, and be reached through the `relay`. `device`: that the training thread
        computes on."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="sync", daemon=True)
        thread.start()
        # Beside a training thread that computes on the CPU, a second team of OpenMP's threads would be more than processors, and
        # the first would sleep at every barrier in place of spinning: a quarter of its speed.
        threads = 1 if device.type == "cpu" else min(IDLE_CORES, torch.get_num_threads())

        async def listen() -> tuple[GrpcCarrier, int]:
            use_threads(threads)
            carrier = GrpcCarrier(credentials, link, limits, relay)
            return carrier, await carrier.listen(host)

        carrier, port = asyncio.run_coroutine_threadsafe(listen(), loop).result()
        return cls(loop, thread, carrier, "" if host is None else joined(host, port))

    def call(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run it on the loop. Whoever calls looks at the future."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def offer(self, name: str, parts: Sequence[memoryview]) -> None:
        """Give a whole state to the workers that ask for it."""
        self.loop.call_soon_threadsafe(self.carrier.offers.offer, name, parts)

    def withdraw(self, name: str) -> None:
        """Keep what was offered no longer."""
        self.loop.call_soon_threadsafe(self.carrier.offers.withdraw, name)

    def taken_by(self, name: str) -> set[PeerId]:
        """Who has taken all of what was offered."""
        return set(self.carrier.offers.taken.get(name, ()))

    def awaited(self, prefix: str) -> list[str]:
        """What begins so, has been asked for, and is not offered."""
        return sorted(name for name in self.carrier.offers.awaited if name.startswith(prefix))

    def refuse(self, prefix: str) -> None:
        """Offer nothing any more whose name begins so."""
        self.loop.call_soon_threadsafe(self.carrier.offers.refuse, prefix)

    def fetch(
        self, giver: Giver, name: str, me: PeerId, size: int, *, exact: bool = True, within_s: float = TRANSFER_S
    ) -> bytearray:
        """A whole state that another worker offers, of `size` bytes, or, unless `exact`, at most so many. Raises PacketError when
        it does not come."""
        return self.call(self.carrier.fetch(giver, name, me, size, within_s, exact=exact)).result()

    def fetching(self, giver: Giver, name: str, me: PeerId, most: int) -> Future[bytearray]:
        """The same, of at most so many bytes, however long it takes; the caller waits, or cancels."""
        return self.call(self.carrier.fetch(giver, name, me, most, math.inf, exact=False))

    def close(self) -> None:
        """Hang up and end the thread."""
        self.call(self.carrier.close()).result(timeout=CLOSE_S)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=CLOSE_S / 2)
