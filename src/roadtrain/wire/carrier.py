"""The gRPC carrier: one process's inbox, its server and its connection to every peer. Lives on one asyncio loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import cast

from roadtrain.errors import PacketError
from roadtrain.message import Envelope, Local
from roadtrain.plan import Link
from roadtrain.view import LinkState, PeerId, Via
from roadtrain.wire.address import dialled_from
from roadtrain.wire.congestion import prefer_bbr
from roadtrain.wire.connection import DIAL_AFTER_S, HELLO_S, Connection
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.hello import Hello
from roadtrain.wire.inbox import Inbox
from roadtrain.wire.limits import Limits
from roadtrain.wire.meter import Meter
from roadtrain.wire.relay import Relay
from roadtrain.wire.server import Server
from roadtrain.wire.shaper import Shaper
from roadtrain.wire.state_transfer import Giver, Offers, Path, Question, fetch
from roadtrain.wire.stream import Pipe, Process
from roadtrain.wire.transport import open_channel
from roadtrain.wire.tunnel import Tunnel
from roadtrain.wire.uplink import Uplink


class GrpcCarrier:
    """Moves envelopes between processes: `listen`, and when it is known who this process is, `join` and `connect`.

    Everything that goes on for longer is a task of one group, so what goes wrong in any of them ends all and reaches `failed`.
    `relay`: where peers meet that do not reach each other; None: nowhere.
    """

    def __init__(self, credentials: Credentials, link: Link | None, limits: Limits, relay: Relay | None = None) -> None:
        self.meter = Meter()
        self.uplink = Uplink()
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
        self._tunnel = None if relay is None else Tunnel(relay, credentials)
        self._listens = False

    # ----------------------------------------------------------------------------------------------- beginning

    async def listen(self, host: str | None) -> int:
        """Accept peers on a free port of `host`, and those that come through the relay; returns the port. `host` None: these
        alone, and no port is opened."""
        alive = asyncio.Event()
        self._life = asyncio.create_task(self._live(alive))
        await alive.wait()
        self._listens = host is not None
        return await self._server.start(host, None if self._tunnel is None else self._tunnel.address)

    async def _live(self, alive: asyncio.Event) -> None:
        try:
            async with asyncio.TaskGroup() as self._group:
                alive.set()
                await asyncio.Event().wait()
        except Exception as error:  # whatever it is, it has ended all connections
            self._broken(error)

    def join(self, me: PeerId, incarnation: int) -> None:
        """This process is `me`, in its `incarnation`; peers that have dialled already are answered now."""
        if self._group is None:
            raise RuntimeError("join comes after listen")
        shapers = self._egress, Shaper(self._link)
        hello, ways, meters = Hello(me, incarnation), (self._listens, self._tunnel), (self.meter, self.uplink)
        self._process = Process(hello, self._credentials, self._limits, *shapers, *meters, self._inbox, *ways)
        if self._tunnel is not None:
            self._group.create_task(self._tunnel.wait(me, incarnation))

    def connect(self, addresses: Mapping[PeerId, str], incarnations: Mapping[PeerId, int]) -> None:
        """These are peers, at these addresses (host:port, "" where they cannot be dialled); those that are known may have moved,
        in a new incarnation."""
        if self._process is None or self._group is None:
            raise RuntimeError("connect comes after listen and join")
        for peer, address in addresses.items():
            if peer in self._connections:
                self._connections[peer][0].move(address, incarnations[peer])
            else:
                made = Connection(self._process, peer, address, incarnations[peer])
                self._connections[peer] = made, self._group.create_task(made.run())
        self._expecting.set()

    async def _welcome(self, pipe: Pipe, caller: str) -> None:
        """See a stream through that somebody has dialled, `caller` as gRPC names it. Who is not a peer yet may become one."""
        async with asyncio.timeout(HELLO_S):
            raw = await pipe.read()
            if not isinstance(raw, bytes):
                raise PacketError("a stream without a hello")
            peer = Hello.decode(raw)
            while peer.peer not in self._connections:
                self._expecting.clear()
                await self._expecting.wait()
        address = dialled_from(caller)
        if address is not None:
            prefer_bbr(address)
        via = Via.RELAY if address is None else Via.DIRECT
        await self._connections[peer.peer][0].accept(peer, pipe, via)

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
        if self._tunnel is not None:
            await self._tunnel.close()

    # ------------------------------------------------------------------------------------------------ messages

    def links(self) -> dict[PeerId, LinkState]:
        """How each peer is reached that is."""
        states = {peer: connection.state for peer, (connection, _) in self._connections.items()}
        return {peer: state for peer, state in states.items() if state is not None}

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

    async def fetch(self, giver: Giver, name: str, me: PeerId, size: int, within_s: float, *, exact: bool) -> bytearray:
        """A whole state that another worker offers. Raises PacketError when it does not come."""
        asked = Question(giver.peer, name, me, size, exact)
        return await fetch(self._paths(giver), asked, self._credentials, self.meter, within_s)

    def _paths(self, giver: Giver) -> list[Path]:
        """The ways to it, the best first: where there is a stream, the stream's."""
        paths: list[Path] = []
        if giver.address:
            paths.append(Path(lambda: open_channel(giver.address, self._credentials), DIAL_AFTER_S))
        tunnel = self._tunnel
        if tunnel is not None:
            paths.append(Path(lambda: tunnel.open_channel(giver.peer), HELLO_S))
        state = self.links().get(giver.peer)
        return paths[::-1] if state is not None and state.via is Via.RELAY else paths
