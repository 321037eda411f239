"""Connections between workers and feeders, on a thread of their own: the same as between workers, with other things to say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import torch

from roadtrain.message import Envelope, Feed
from roadtrain.plan import Link
from roadtrain.session.listener import Listener
from roadtrain.view import PeerId, Place
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.limits import Limits
from roadtrain.wire.relay import Relay

BATCH_BYTES_MAX = 1 << 31
"""Largest batch that is taken in."""


class FeedLine:
    """This process, for those at the other side. `open` makes it."""

    def __init__(self, listener: Listener, link: Link | None) -> None:
        self._link = link
        self._listener, self._carrier = listener, listener.carrier
        self._me, self._incarnation = "", 0
        self._met: dict[PeerId, Place] = {}
        self._pump: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._broken: Callable[[BaseException], None] = lambda error: None

    @classmethod
    def open(
        cls, credentials: Credentials, host: str | None, link: Link | None = None, relay: Relay | None = None
    ) -> FeedLine:
        """Listen on a free port of `host`; None: on none, and be reached through the `relay`, or not at all."""
        limits = Limits(BATCH_BYTES_MAX)
        return cls(Listener.open(credentials, host, link, limits, torch.device("cpu"), relay), link)

    @property
    def address(self) -> str:
        """Where others can dial it (host:port); "" for nowhere."""
        return self._listener.address

    @property
    def bytes(self) -> tuple[int, int]:
        """Sent and received so far."""
        return self._carrier.meter.sent, self._carrier.meter.received

    def start(
        self,
        me: PeerId,
        incarnation: int,
        take: Callable[[Envelope], None],
        broken: Callable[[BaseException], None],
    ) -> None:
        """Be `me`. `take` is given what comes, on the other thread, from those that were met; `broken`, once, what ends it."""
        self._me, self._incarnation, self._broken = me, incarnation, broken

        async def begin() -> None:
            self._carrier.failed = broken
            self._carrier.join(me, incarnation)
            self._pump = asyncio.create_task(self._listen(take, broken))

        self._listener.call(begin()).result()

    async def _listen(self, take: Callable[[Envelope], None], broken: Callable[[BaseException], None]) -> None:
        try:
            while True:
                event = await self._carrier.receive(None)
                if isinstance(event, Envelope) and self._is_from_now(event):
                    take(event)
        except Exception as error:  # whatever it is, nobody shall wait for what comes no more
            broken(error)

    def _is_from_now(self, envelope: Envelope) -> bool:
        """Whether the process that said it is the one that is known under its name."""
        place = self._met.get(envelope.source)
        return place is not None and place.incarnation == envelope.incarnation

    def meet(self, places: Mapping[PeerId, Place]) -> None:
        """These are at the other side, and no others. Any thread may call."""

        self._listener.loop.call_soon_threadsafe(self._change, places)

    def _change(self, places: Mapping[PeerId, Place]) -> None:
        gone = [peer for peer in self._met if peer not in places]
        self._met = dict(places)
        addresses = {peer: place.address for peer, place in places.items()}
        self._carrier.connect(addresses, {peer: place.incarnation for peer, place in places.items()})
        for peer in gone:
            task = asyncio.create_task(self._carrier.disconnect(peer))
            self._leaving.add(task)
            task.add_done_callback(self._left)

    def _left(self, task: asyncio.Task[None]) -> None:
        self._leaving.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._broken(task.exception() or asyncio.CancelledError())

    def rate(self, peer: PeerId) -> float | None:
        """Bytes per second that a peer takes in, where that is declared or was measured."""
        if self._link is not None:
            return self._link.rate_bytes_per_s

        async def look() -> float | None:
            state = self._carrier.links().get(peer)
            return None if state is None or state.mb_per_s is None else 1e6 * state.mb_per_s

        return self._listener.call(look()).result()

    def say(self, peer: PeerId, message: Feed) -> None:
        """Any thread may call. What is said to nobody is lost."""
        envelope = Envelope(self._me, peer, self._incarnation, 0, message)
        self._listener.loop.call_soon_threadsafe(self._carrier.send, envelope)

    def close(self) -> None:
        """Hang up, and end the thread."""
        if self._pump is not None:
            self._listener.loop.call_soon_threadsafe(self._pump.cancel)
        self._listener.close()
