"""Where those meet who feed and take data by name: a process's line to the other side, and its line to a fleet's coordinator."""

from __future__ import annotations

import math
import os
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from roadtrain.data.line import FeedLine
from roadtrain.errors import RoadtrainError
from roadtrain.fleet.desk_line import DeskLine
from roadtrain.membership.sharing import PROTOCOL, Caller, Offer, check_data_name, encode, told_of
from roadtrain.orchestrate.connection import Connection
from roadtrain.orchestrate.data_order import PROTOCOL as ORDER_PROTOCOL
from roadtrain.orchestrate.data_order import DataRequest, order_of
from roadtrain.orchestrate.ticket import Ticket
from roadtrain.version import VERSION
from roadtrain.view import PeerId, Place
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.relay import Relay

Hear = Callable[[Mapping[PeerId, Place], "Offer | None"], None]


@dataclass(frozen=True, slots=True)
class Way:
    """How a process gets there. `certificate`: the coordinator's. `host`: where the other side reaches this machine; "": it opens
    no port."""

    url: str
    token: str = field(repr=False)
    certificate: str = field(repr=False)
    host: str


def ask_way(ticket: Ticket, name: str, *, feeds: bool, host: str, listens: bool) -> Way:
    """What the coordinator says to a ticket. Raises UsageError where the ticket does not serve to it, Unreachable where nobody
    answers."""
    check_data_name(name)
    connection = Connection.to(ticket)
    try:
        asked = DataRequest(ORDER_PROTOCOL, VERSION, feeds)
        order = order_of(connection.ask("POST", f"/api/data/{name}", asked))
    finally:
        connection.close()
    here = (host or connection.own_address()) if listens else ""
    return Way(f"wss://{connection.address}/data/{name}", order.token, connection.certificate, here)


class DataMeeting:
    """This process there; `offer`: what it feeds, None where it takes. `start` begins."""

    def __init__(self, way: Way, offer: Offer | None) -> None:
        credentials = Credentials(way.token, secure=True, coordinator=way.certificate)
        relay = Relay(way.url, credentials.metadata[0][1], way.certificate)
        self.name = _own_name()
        self.line = FeedLine.open(credentials, way.host or None, relay=relay)
        self._said = Caller(PROTOCOL, VERSION, self.name, self.line.address, offer)
        self._hear: Hear = lambda others, offer: None
        self._desk = DeskLine(credentials, [way.url], "/api/desk", lambda: encode(self._said), self._told, math.inf)

    def start(self, hear: Hear) -> None:
        """Be there. `hear` is told who is at the other side, and what is fed, on another thread."""
        self._hear = hear
        self._desk.start()

    def _told(self, raw: bytes) -> bool:
        told = told_of(raw)
        self._hear(told.others, told.offer)
        return False

    @property
    def over(self) -> bool:
        """Whether the coordinator lets it in no more."""
        return self._desk.over.is_set()

    def wait(self, seconds: float) -> bool:
        """For that, so long at most; whether it is so."""
        return self._desk.over.wait(seconds)

    def error(self) -> RoadtrainError | None:
        """Why, where that is an error."""
        return self._desk.error

    def close(self) -> None:
        """Say that it goes. The line to the other side is whoever's who uses it."""
        self._desk.leave()


def _own_name() -> PeerId:
    """What no other process is called, and a person knows this one by."""
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().partition(".")[0])[:40].lstrip("-_")
    return f"{host or 'host'}-{os.getpid()}-{secrets.token_hex(3)}"
