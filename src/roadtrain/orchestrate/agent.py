"""`roadtrain join`: lends this machine to a coordinator. It says what runs here, is told what should, and sees to it.

Both say the whole of it each time, so nothing is missed when a connection, or either of the two, is lost and comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import current_thread, main_thread

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from roadtrain.errors import PeerError, RoadtrainError, RunFailed, UsageError
from roadtrain.fleet.close_codes import OVER, UNAUTHORISED
from roadtrain.launch.process_server import stop
from roadtrain.orchestrate.agents_here import here
from roadtrain.orchestrate.connection import Connection
from roadtrain.orchestrate.couriers import bring_home, fetch_for
from roadtrain.orchestrate.crew import Crew, key_of
from roadtrain.orchestrate.crew_progress import CrewProgress
from roadtrain.orchestrate.identity import Unreachable
from roadtrain.orchestrate.machine import (
    PROTOCOL,
    REPORT_S,
    JoinRequest,
    Orders,
    Report,
    Taken,
    WorkerOrder,
    encode,
    orders_of,
)
from roadtrain.orchestrate.prober import Prober
from roadtrain.orchestrate.ticket import Ticket
from roadtrain.version import VERSION
from roadtrain.wire.credentials import NAME

LOOK_S = 0.1
"""How often it is looked whether workers live."""
BRING_S = 1.0
"""Between two looks for what there is to bring home."""
RETRY_S = (0.2, 5.0)
"""Between two attempts to reach the coordinator: the first, and the longest."""
FIRST_S = 30.0
"""How long the coordinator may be away when the machine joins."""
DRAIN_S = 60.0
"""How long workers have to hand over what they hold when the machine leaves."""
GOODBYE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lent:
    """What is lent, and how. `name`, `host`: what others call this machine and reach it by; "" for what it finds out itself.
    `devices`: 0 for all. `folder`: for all that is written here."""

    name: str
    host: str
    devices: int
    takes_code: bool
    listens: bool
    folder: Path


class Gone(Exception):
    """The coordinator keeps nothing of this machine any more."""


class Agent:
    """This machine at the coordinator of `ticket`."""

    def __init__(self, ticket: Ticket, lent: Lent, say: Callable[[str], None]) -> None:
        self._ticket, self._lent, self._say = ticket, lent, say
        self._crew = Crew(lent.folder, lent.devices)
        self._progress = CrewProgress(say)
        self._taken: Taken | None = None
        self._connection: Connection | None = None
        self._host = lent.host
        self._orders: dict[tuple[str, int, int], WorkerOrder] = {}
        self._changed = asyncio.Event()
        self._prober = Prober(lent.folder, self._changed.set)
        self._leaving = self._told = False
        self._asked = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fetching: dict[tuple[str, int, int], asyncio.Task[None]] = {}

    # --------------------------------------------------------------------------------------------------- joining

    def join(self) -> str:
        """Be taken in; the name. Raises UsageError for what is refused, RunFailed when nobody answers."""
        connection = Connection.to(self._ticket)
        try:
            self._host = self._lent.host or connection.own_address()
            devices, kind = self._crew.devices()
            asked = JoinRequest(
                protocol=PROTOCOL,
                version=VERSION,
                name=self._lent.name,
                host=self._host,
                devices=devices,
                kind=kind,
                takes_code=self._lent.takes_code,
                listens=self._lent.listens,
            )
            self._taken = msgspec.json.decode(connection.ask("POST", "/api/machines", asked), type=Taken)
        finally:
            connection.close()
        return self._taken.machine

    async def live(self) -> int:
        """Until it has left. Returns the exit code."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if current_thread() is main_thread() else ():
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._ask_to_leave)
        if self._lent.listens:
            await self._prober.open(self._host, self._say)
        tasks = [asyncio.create_task(each()) for each in (self._talk, self._mind, self._bring)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except UsageError as error:
            self._say(f"error: {error.line()}")
            return error.exit_code
        finally:
            for task in [*tasks, *self._fetching.values()]:
                task.cancel()
            await asyncio.gather(*tasks, *self._fetching.values(), return_exceptions=True)
            await self._prober.close()
            self._crew.end(self._crew.hands)
        return 0

    def leave(self) -> None:
        """Ask it to leave; once more: at once. Any thread may call."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._ask_to_leave)

    def _ask_to_leave(self) -> None:
        self._asked += 1
        if self._asked == 1 and self._crew.hands:
            self._say("leaving: others take over what this machine holds; once more ends it at once")
        self._leaving = True
        self._changed.set()

    # ----------------------------------------------------------------------------------------------- conversation

    async def _talk(self) -> None:
        """Be connected, whenever that can be."""
        pause_s = RETRY_S[0]
        away = False
        while True:
            try:
                connection = await asyncio.to_thread(self._reach)
                async with await self._open(connection) as socket:
                    if away:
                        self._say("the coordinator is back")
                    pause_s, away = RETRY_S[0], False
                    await self._converse(socket)
            except ConnectionClosed as closed:
                self._look_at(closed)
            except (Unreachable, OSError, WebSocketException, PeerError, TimeoutError):
                pass
            if self._leaving and not self._crew.hands:
                return
            if not away:
                away = True
                self._say("the coordinator cannot be reached; what runs here goes on")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_S[1])

    def _reach(self) -> Connection:
        assert self._taken is not None, "it has joined"
        found = Connection.to(self._ticket)
        found.close()
        self._host = self._lent.host or found.own_address()  # another network has other addresses
        kept = self._connection
        if kept is not None and (kept.address, kept.certificate) == (found.address, found.certificate):
            return kept
        # The one before is let go, not closed: another thread may be bringing a file by it, and whoever waits for a socket that
        # is closed under it waits for the whole of its timeout, and so does the end of the run.
        authorization = f"Bearer {self._taken.machine}:{self._taken.secret}"
        self._connection = Connection(found.address, found.certificate, authorization)
        return self._connection

    async def _open(self, connection: Connection) -> ClientConnection:
        return await connect(
            f"wss://{connection.address}/api/machine",
            additional_headers={"authorization": connection.authorization},
            ssl=connection.context,
            server_hostname=NAME,
            proxy=None,
            compression=None,
            ping_interval=10,
            ping_timeout=10,
            close_timeout=1.0,
            open_timeout=10,
        )

    async def _converse(self, socket: ClientConnection) -> None:
        listening = asyncio.create_task(self._listen(socket))
        try:
            while not listening.done():
                self._changed.clear()
                left = self._leaving and not self._crew.hands and not self._fetching
                await socket.send(encode(self._report(left=left)))
                if left:
                    with contextlib.suppress(TimeoutError, ConnectionClosed):
                        async with asyncio.timeout(GOODBYE_S):
                            await asyncio.shield(listening)
                    return
                changed = asyncio.create_task(self._changed.wait())
                await asyncio.wait([changed, listening], timeout=REPORT_S, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
            listening.result()
        finally:
            listening.cancel()

    def _report(self, *, left: bool) -> Report:
        return Report(
            workers=self._crew.report(),
            leaving=self._leaving,
            left=left,
            door=self._prober.door(self._host),
            probed=self._prober.probed,
        )

    async def _listen(self, socket: ClientConnection) -> None:
        while True:
            raw = await socket.recv()
            if isinstance(raw, str):
                raise PeerError("not orders, but text")
            self._take(orders_of(raw))

    def _look_at(self, closed: ConnectionClosed) -> None:
        """Raises UsageError for what no other attempt changes."""
        code = closed.rcvd.code if closed.rcvd is not None else 0
        if code == UNAUTHORISED:
            raise UsageError(closed.rcvd.reason if closed.rcvd is not None else "refused")
        if code == OVER and not self._leaving:
            raise UsageError("the coordinator has let this machine go")

    # --------------------------------------------------------------------------------------------------- workers

    def _take(self, orders: Orders) -> None:
        """What is to run here now, and what to measure."""
        self._prober.take(orders)
        if orders.leaves and not self._leaving:
            self._ask_to_leave()
        wanted = {key_of(order): order for order in orders.workers}
        crew = self._crew
        superseded = [
            key
            for key, hand in crew.hands.items()
            if key not in wanted or wanted[key].generation != hand.order.generation
        ]
        crew.end(superseded)
        self._orders = wanted
        for run in {key[0] for key in superseded} - {key[0] for key in wanted}:
            crew.forget(run)
        self._start_missing()
        self._changed.set()

    def _start_missing(self) -> None:
        for key, order in self._orders.items():
            if key not in self._crew.hands and key not in self._fetching and not self._leaving:
                self._fetching[key] = asyncio.create_task(self._begin(order))

    async def _begin(self, order: WorkerOrder) -> None:
        """Start a worker, with what it needs. What stands against it is in its log, and ends it."""
        key, connection = key_of(order), self._connection
        try:
            if connection is None:
                return
            if order.wants_code and not self._lent.takes_code:
                raise UsageError("this machine runs no code of others", "join it with --allow-code")
            await asyncio.to_thread(fetch_for, order, self._crew, connection)
            if self._orders.get(key) == order and not self._leaving:
                url = f"wss://{connection.address}/runs/{order.run}/{order.attempt}"
                lent = self._lent
                certificate, allowed = connection.certificate, {"takes_code": lent.takes_code, "listens": lent.listens}
                self._crew.begin(order, url, certificate, self._host, **allowed)
        except Unreachable:
            await asyncio.sleep(REPORT_S)  # and then it is tried again
        except (RoadtrainError, OSError) as error:
            self._crew.failed(order, error.line() if isinstance(error, RoadtrainError) else str(error))
        finally:
            self._fetching.pop(key, None)
            self._changed.set()

    async def _mind(self) -> None:
        """See who lives; and, when the machine leaves, that all go."""
        until = None
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_S)
            if self._crew.look():
                self._changed.set()
            self._progress.look(self._crew.hands.values(), loop.time())
            self._start_missing()
            if self._leaving and not self._told:
                self._told, until = True, loop.time() + DRAIN_S
                self._crew.leave()
            if self._asked > 1 or (until is not None and loop.time() > until):
                self._crew.end(self._crew.hands)
                self._changed.set()
            if self._leaving:
                self._crew.end([key for key, hand in self._crew.hands.items() if hand.state == "settled"])

    async def _bring(self) -> None:
        """Bring home what workers have made; of those that have ended, all."""
        while True:
            await asyncio.sleep(BRING_S if all(h.state == "running" for h in self._crew.hands.values()) else LOOK_S)
            for hand in list(self._crew.hands.values()):
                connection = self._connection
                if hand.state == "settled" or connection is None:
                    continue
                ended = hand.state == "ended"
                try:
                    await asyncio.to_thread(bring_home, hand, self._crew, connection)
                except (Unreachable, OSError):
                    continue
                except (UsageError, RunFailed) as error:
                    if not ended:
                        continue
                    self._say(f"{hand.order.run}: what w{hand.order.slot} made is not taken: {error.line()}")
                if ended:
                    hand.state = "settled"
                    self._changed.set()


def lend(ticket: Ticket, lent: Lent, announce: Callable[[str], None]) -> int:
    """Join, and stay until the machine is asked to leave; the exit code. `announce` is told the machine's name."""

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    agent = Agent(ticket, lent, say)

    async def live() -> int:
        machine = agent.join()
        with here(machine):
            announce(machine)
            try:
                return await agent.live()
            finally:
                stop()

    lent.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if asyncio._get_running_loop() is None:  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
        return asyncio.run(live())
    with ThreadPoolExecutor(
        1, "agent"
    ) as thread:  # a notebook's main thread has a loop of its own: it waits, and hears Ctrl-C
        ended = thread.submit(asyncio.run, live())
        while True:
            try:
                return ended.result()
            except KeyboardInterrupt:
                agent.leave()
