"""The gRPC carrier: one process's inbox, its server and its connection to every peer. Lives on one asyncio loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import cast

from roadtrain.errors import PacketError
from roadtrain.message import Envelope, Local
from roadtrain.plan import Link
from roadtrain.view import PeerId
from roadtrain.wire.congestion import prefer_bbr
from roadtrain.wire.connection import HELLO_S, Connection
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.hello import Hello
from roadtrain.wire.inbox import Inbox
from roadtrain.wire.limits import Limits
from roadtrain.wire.meter import Meter
from roadtrain.wire.server import Server
from roadtrain.wire.shaper import Shaper
from roadtrain.wire.state_transfer import Offers, fetch
from roadtrain.wire.stream import Pipe, Process


class GrpcCarrier:
    """Moves envelopes between processes: `listen`, and when it is known who this process is, `join` and `connect`.

    Everything that goes on for longer is a task of one group, so what goes wrong in any of them ends all and reaches `failed`.
    """

    def __init__(self, credentials: Credentials, link: Link | None, limits: Limits) -> None:
        self.meter = Meter()
        self.failed: Callable[[BaseException], None] | None = None
        """Is told when connections cannot go on: of what is wrong for good, once."""
        self._credentials = credentials
        self._link = link
        self._limits = limits
        self._egress = Shaper(link)
        self._inbox = Inbox(limits.inbox)
        self._process: Process | None = None
        self._connections: dict[PeerId, tuple[Connection, asyncio.Task[None]]] = {}
        self._expecting = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._life: asyncio.Task[None] | None = None
        self.offers = Offers(credentials, self._egress, self.meter)
        self._server = Server(credentials, self.offers, self._welcome, self._broken)

    # ----------------------------------------------------------------------------------------------- beginning

    async def listen(self, host: str) -> int:
        """Accept peers on a free port of `host`; returns it."""
        alive = asyncio.Event()
        self._life = asyncio.create_task(self._live(alive))
        await alive.wait()
        return await self._server.start(host)

    async def _live(self, alive: asyncio.Event) -> None:
        try:
            async with asyncio.TaskGroup() as self._group:
                alive.set()
                await asyncio.Event().wait()
        except Exception as error:  # whatever it is, it has ended all connections
            self._broken(error)

    def join(self, me: PeerId, incarnation: int) -> None:
        """This process is `me`, in its `incarnation`; peers that have dialled already are answered now."""
        shapers = self._egress, Shaper(self._link)
        hello = Hello(me, incarnation)
        self._process = Process(hello, self._credentials, self._limits, *shapers, self.meter, self._inbox)

    def connect(self, addresses: Mapping[PeerId, str], incarnations: Mapping[PeerId, int]) -> None:
        """These are peers, at these addresses (host:port); those that are known may have moved, in a new incarnation."""
        if self._process is None or self._group is None:
            raise RuntimeError("connect comes after listen and join")
        for peer, address in addresses.items():
            if peer in self._connections:
                self._connections[peer][0].move(address, incarnations[peer])
            else:
                made = Connection(self._process, peer, address, incarnations[peer])
                self._connections[peer] = made, self._group.create_task(made.run())
        self._expecting.set()

    async def _welcome(self, pipe: Pipe, address: str) -> None:
        """See a stream through that somebody has dialled. Who is not a peer yet may become one."""
        async with asyncio.timeout(HELLO_S):
            raw = await pipe.read()
            if not isinstance(raw, bytes):
                raise PacketError("a stream without a hello")
            peer = Hello.decode(raw)
            while peer.peer not in self._connections:
                self._expecting.clear()
                await self._expecting.wait()
        prefer_bbr(address)
        await self._connections[peer.peer][0].accept(peer, pipe)

    def _broken(self, error: BaseException) -> None:
        while isinstance(error, BaseExceptionGroup):
            error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
        if self.failed is not None:
            self.failed(error)

    # ------------------------------------------------------------------------------------------------- ending

    async def disconnect(self, peer: PeerId) -> None:
        """Forget a peer that is lost."""
        connection, task = self._connections.pop(peer, (None, None))
        if connection is not None and task is not None:
            task.cancel()
            await connection.end()
            await asyncio.wait([task])

    async def close(self) -> None:
        """Stop sending and listening."""
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait([self._life])
        await self._server.stop()

    # ------------------------------------------------------------------------------------------------ messages

    def unreached(self) -> list[PeerId]:
        """Peers with which there has been no stream for long, though both sides dial."""
        return [peer for peer, (connection, _) in self._connections.items() if connection.unreached]

    @property
    def idle(self) -> bool:
        """Whether everything sent has arrived."""
        return all(connection.idle for connection, _ in self._connections.values())

    def now(self) -> float:
        """Seconds of the loop's monotonic clock."""
        return asyncio.get_running_loop().time()

    def send(self, envelope: Envelope) -> None:
        """Queue for its destination; dropped when that is no longer a peer."""
        connection, _ = self._connections.get(envelope.destination, (None, None))
        if connection is not None:
            connection.send(envelope)

    def deliver(self, event: Envelope | Local) -> None:
        """Put an event into the inbox. On the loop's thread only; from others: `loop.call_soon_threadsafe(deliver, ...)`."""
        self._inbox.put(event)

    async def receive(self, until: float | None) -> Envelope | Local | None:
        """The next event, or None when the time `until` has come."""
        return await self._inbox.get(until)

    async def fetch(
        self, peer_address: str, name: str, me: PeerId, size: int, within_s: float, *, exact: bool
    ) -> bytearray:
        """A whole state that another worker offers. Raises PacketError when it does not come."""
        return await fetch(peer_address, name, me, self._credentials, self.meter, size, within_s, exact=exact)
