"""`roadtrain feed`: this machine makes batches for every run of one target on a fleet, those too that begin later.

It asks again and again which runs there are, and sees to it that each has its feeders: nothing is missed when either end is
started again.
"""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from multiprocessing.context import ForkServerContext, ForkServerProcess

import msgspec

from roadtrain.errors import RunFailed
from roadtrain.fleet.worker_spec import WorkerSpec
from roadtrain.launch.process_server import hearing, sheltered, start
from roadtrain.orchestrate.connection import Connection
from roadtrain.orchestrate.feed_order import PROTOCOL, FeedOrder, FeedRequest, key_of, orders_of
from roadtrain.orchestrate.feeder_process import be_feeder
from roadtrain.orchestrate.identity import Unreachable
from roadtrain.orchestrate.ticket import Ticket
from roadtrain.version import VERSION
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.relay import Relay

LOOK_S = 0.5
"""Between two questions which runs there are."""
AGAIN_S = 2.0
"""A feeder that has ended while its run goes on is started again after so long."""
GOODBYE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fed:
    """What is fed, and how. `host`: where workers reach this machine; "" for what it finds out itself. `processes`: feeders of
    each run. `listens`: they open a port; else they are reached through the coordinator, or dial workers."""

    target: str
    host: str
    processes: int
    listens: bool


@dataclass(slots=True)
class _Hand:
    """One feeder: its process, and what ends it."""

    process: ForkServerProcess
    pipe: Pipe


Key = tuple[str, int]
"""A run, and the attempt of it."""


class Feeds:
    """The feeders of this machine. `say`: tells the person."""

    def __init__(self, ticket: Ticket, what: Fed, say: Callable[[str], None]) -> None:
        self._ticket, self._what, self._say = ticket, what, say
        self._key = key_of(what.target)
        self._over = threading.Event()
        self._hands: dict[Key, list[_Hand]] = {}
        self._begun_s: dict[Key, float] = {}

    def join(self) -> str:
        """Be known to the coordinator; the name. Raises UsageError for what is refused, RunFailed when nobody answers."""
        connection = Connection.to(self._ticket)
        try:
            host = socket.gethostname()
            raw = connection.ask("POST", "/api/feeds", FeedRequest(PROTOCOL, VERSION, host, self._key))
            return msgspec.json.decode(raw, type=dict[str, str])["feeder"]
        finally:
            connection.close()

    def live(self, announce: Callable[[], None]) -> int:
        """Until it is asked to end; the exit code. `announce` is called when it can be. Raises UsageError when the ticket lets in
        no more."""
        away = False
        with hearing(lambda number, frame: self._over.set()):
            announce()
            context = start()
            try:
                while not self._over.is_set():
                    try:
                        self._look(context)
                        if away:
                            self._say("the coordinator is back")
                        away = False
                    except Unreachable:
                        if not away:
                            self._say("the coordinator cannot be reached; what is fed here goes on")
                        away = True
                    self._over.wait(LOOK_S)
            finally:
                self._end(list(self._hands))
        return 0

    def _look(self, context: ForkServerContext) -> None:
        """See which runs there are, and that each has its feeders."""
        connection = Connection.to(self._ticket)
        try:
            orders = orders_of(connection.ask("GET", "/api/feeds", key=self._key))
        finally:
            connection.close()
        wanted = {(order.run, order.attempt): order for order in orders}
        self._end([key for key in self._hands if key not in wanted])
        for key, order in wanted.items():
            hands = [hand for hand in self._hands.get(key, ()) if hand.process.is_alive()]
            self._hands[key] = hands
            if key not in self._begun_s:
                self._say(f"feeds {order.run}")
            if len(hands) < self._what.processes and time.monotonic() - self._begun_s.get(key, -AGAIN_S) >= AGAIN_S:
                self._begun_s[key] = time.monotonic()
                for number in range(len(hands), self._what.processes):
                    hands.append(self._begin(context, order, number, connection))

    def _begin(self, context: ForkServerContext, order: FeedOrder, number: int, connection: Connection) -> _Hand:
        url = f"wss://{connection.address}/runs/{order.run}/{order.attempt}"
        relay = Relay(url, Credentials(order.token, secure=True).metadata[0][1], connection.certificate)
        given = WorkerSpec(
            url,
            order.token,
            True,
            number,
            self._what.host or connection.own_address(),
            number,
            1,
            connection.certificate,
            relay=relay,
            listens=self._what.listens,
        )
        theirs, mine = multiprocessing.Pipe(duplex=False)
        process = context.Process(target=be_feeder, args=(given, self._what.target, theirs), name=f"feed{number}")
        try:
            with sheltered():
                process.start()
        except OSError as error:
            raise RunFailed(f"cannot start a feeder's process: {error}") from error
        theirs.close()
        return _Hand(process, mine)

    def _end(self, keys: Sequence[Key]) -> None:
        ended = [hand for key in keys for hand in self._hands.pop(key, ())]
        for hand in ended:
            hand.pipe.close()
        for hand in ended:
            hand.process.join(GOODBYE_S)
            if hand.process.is_alive():
                hand.process.kill()
                hand.process.join(GOODBYE_S)
