"""The gRPC carrier: one process's inbox, its server and its channels to every peer. Lives on one asyncio loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

from roadtrain.message import Envelope, Local
from roadtrain.plan import Link
from roadtrain.view import PeerId
from roadtrain.wire.channel import Channel
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.meter import Meter
from roadtrain.wire.server import Server
from roadtrain.wire.shaper import Shaper
from roadtrain.wire.state_transfer import Offers, fetch


class GrpcCarrier:
    """Moves envelopes between processes. `limit_bytes`: the longest message body that will be accepted."""

    def __init__(self, me: PeerId, credentials: Credentials, link: Link | None, limit_bytes: int) -> None:
        self.meter = Meter()
        self._credentials = credentials
        self._loop = asyncio.get_running_loop()
        self._egress = Shaper(link)
        self._channels: dict[PeerId, Channel] = {}
        self._inbox: deque[Envelope | Local] = deque()
        self._arrived = asyncio.Event()
        self.offers = Offers(credentials, self._egress, self.meter)
        self._server = Server(me, credentials, Shaper(link), self.meter, limit_bytes, self.deliver, self.offers)
        self.failed: Callable[[BaseException], None] | None = None
        """Is told when a way out cannot go on."""

    async def listen(self, host: str) -> int:
        """Accept peers on a free port of `host`; returns it."""
        return await self._server.start(host)

    def connect(self, addresses: Mapping[PeerId, str]) -> None:
        """Open a way out to each peer (host:port)."""
        for peer, address in addresses.items():
            self._channels[peer] = Channel(address, self._credentials, self._egress, self.meter)
            self._channels[peer].start(self._broken)

    def _broken(self, error: BaseException) -> None:
        if self.failed is not None:
            self.failed(error)

    async def fetch(self, peer_address: str, name: str, me: PeerId, size: int, within_s: float) -> bytearray:
        """A whole state that another worker offers. Raises PacketError when it does not come."""
        return await fetch(peer_address, name, me, self._credentials, self.meter, size, within_s)

    async def disconnect(self, peer: PeerId) -> None:
        """Forget a peer that is lost."""
        channel = self._channels.pop(peer, None)
        if channel is not None:
            await channel.close()

    async def close(self) -> None:
        """Stop sending and listening."""
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))
        await self._server.stop()

    @property
    def idle(self) -> bool:
        """Whether everything sent has left."""
        return all(channel.idle for channel in self._channels.values())

    def now(self) -> float:
        """Seconds of the loop's monotonic clock."""
        return self._loop.time()

    def send(self, envelope: Envelope) -> None:
        """Queue for its destination; dropped when that is no longer a peer."""
        channel = self._channels.get(envelope.destination)
        if channel is not None:
            channel.queue(envelope)

    def deliver(self, event: Envelope | Local) -> None:
        """Put an event into the inbox. On the loop's thread only; from others: `loop.call_soon_threadsafe(deliver, ...)`."""
        self._inbox.append(event)
        self._arrived.set()

    async def receive(self, until: float | None) -> Envelope | Local | None:
        """The next event, or None when the time `until` has come."""
        while not self._inbox:
            self._arrived.clear()
            timeout = None if until is None else until - self.now()
            if timeout is not None and timeout <= 0:
                return None
            try:
                async with asyncio.timeout(timeout):
                    await self._arrived.wait()
            except TimeoutError:
                return None
        return self._inbox.popleft()
