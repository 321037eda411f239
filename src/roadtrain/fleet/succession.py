"""Where a worker looks for the coordinator, and when it takes its place.

| a worker | that is | until |
|---|---|---|
| follows | connected to a coordinator that decides | the connection ends, and is not there again |
| seeks | going round: where the coordinator was, then its heirs (`NewView.heirs`) | one of them decides |
| asks | it is an heir, and its own coordinator asks the members (`membership/recall.py`) | that decides, or another does |

A coordinator whose process is gone (its host refuses the connection) is succeeded at once, one whose host is silent after a
moment. One that stands still is waited for: its host takes connections, and it will go on where it was. Heirs wait for those
before them whose own process lives.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import Protocol

from roadtrain.membership.messages import NewView, RunSpec
from roadtrain.view import PeerId
from roadtrain.wire.address import family, joined, parted

CONNECT_S = 2.0
"""Whoever does not answer for so long is silent."""
ANSWER_S = 1.0
"""So long an heir that does not answer yet is given before the next one is looked at."""
REFUSED_S, SILENT_S = 0.3, 3.0
"""How long the coordinator is away before an heir takes its place: one whose process is gone, one whose host is silent."""
STAGGER_S = 1.5
"""So much later for each heir before it."""


class Mute(Exception):
    """A connection was taken, and nobody answers on it: the coordinator stands still."""


class Asking(Protocol):
    """A coordinator of this process that asks whether it may decide."""

    @property
    def has_yielded(self) -> bool:
        """Whether it has found another that does, and is gone."""
        ...


class Heir(Protocol):
    """Can make this process the coordinator."""

    def rise(self, spec: RunSpec, listener: socket.socket, others: list[str], before: list[str]) -> Asking:
        """Serve at `listener`, and ask the members. `others`: where another coordinator may be; `before`: those of them that go
        first if they ask too."""
        ...


class Succession:
    """Of the coordinator that was first at `url`. `host`: the address of this host; `heir`: None for a worker that will never be
    the coordinator."""

    def __init__(self, url: str, host: str, heir: Heir | None) -> None:
        self.url = url
        self._scheme = url.partition("://")[0]
        self._host, self._heir = host, heir
        self._port = 0
        self._listener = None if heir is None else self._reserve()
        self._asking: Asking | None = None
        self._away_s: float | None = None
        self._patience_s: float | None = None
        self._turn, self._stations = 0, 1

    @property
    def address(self) -> str:
        """host:port at which this worker would be the coordinator. Before, its host takes connections there as long as the
        process lives, and nobody answers."""
        return "" if self._listener is None else joined(self._host, self._port)

    def _reserve(self) -> socket.socket:
        listener = socket.socket(family(self._host), socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self._host, self._port))
        listener.listen()
        self._port = listener.getsockname()[1]
        return listener

    def next(self, me: PeerId, told: NewView | None) -> str:
        """Where to look now: where the coordinator was last, and each of its heirs, in turns. An heir looks at those before it,
        and at itself when it asks."""
        heirs = {} if told is None else told.heirs
        if me in heirs:
            known = list(heirs)
            heirs = {peer: heirs[peer] for peer in known[: known.index(me) + (self._asking is not None)]}
        urls = self._urls(heirs)
        self._stations = len(urls)
        self._turn %= self._stations
        return urls[self._turn]

    def _urls(self, heirs: Mapping[PeerId, str]) -> list[str]:
        return list(dict.fromkeys([self.url, *(f"{self._scheme}://{address}" for address in heirs.values())]))

    def found(self, url: str, *, leads: bool) -> None:
        """A coordinator has answered at `url`. `leads`: it decides."""
        if leads:
            self.url, self._turn = url, 0
            self._away_s = None

    def lost(self, now: float) -> None:
        """A connection to a coordinator has ended; it may take another one at once."""
        self._away_s = now if self._away_s is None else self._away_s
        self._patience_s, self._turn = None, 0

    def failed(self, url: str, error: BaseException, now: float) -> None:
        """There is no coordinator at `url`: what a connection came to."""
        self._away_s = now if self._away_s is None else self._away_s
        if url == self.url:
            self._patience_s = _patience_s(error)
        self._turn += 1

    @property
    def is_round_over(self) -> bool:
        """Whether the coordinator and all heirs have been looked for since the last pause."""
        return self._turn >= self._stations

    async def consider(self, me: PeerId, spec: RunSpec | None, told: NewView | None, now: float) -> None:
        """Take the coordinator's place, if it is time to."""
        if self._asking is not None and self._asking.has_yielded:
            self._asking = None
        since_s, patience_s = self._away_s, self._patience_s
        if self._asking is not None or since_s is None or patience_s is None or now - since_s < patience_s:
            return
        if self._heir is None or spec is None or told is None or me not in told.heirs:
            return
        before = list(told.heirs)[: list(told.heirs).index(me)]
        if now - since_s < patience_s + STAGGER_S * await _living(before, told):
            return
        own = f"{self._scheme}://{self.address}"
        others = [url for url in self._urls(told.heirs) if url != own]
        first = [f"{self._scheme}://{told.heirs[peer]}" for peer in before]
        assert self._listener is not None, "it is an heir"
        # A duplicate: when it yields its socket is closed, and this process lives all the same.
        self._asking = await asyncio.to_thread(self._heir.rise, spec, self._listener.dup(), others, first)
        self._turn = self._urls({peer: told.heirs[peer] for peer in [*before, me]}).index(own)


def _patience_s(error: BaseException) -> float | None:
    match error:
        case Mute():
            return None
        case ConnectionRefusedError():
            return REFUSED_S
        case _:
            return SILENT_S


async def _living(peers: list[PeerId], told: NewView) -> int:
    """How many of `peers`, who are heirs, have a process that lives."""
    gone = await asyncio.gather(*(is_refused(told.heirs[peer]) for peer in peers))
    return len(peers) - sum(gone)


async def is_refused(address: str) -> bool:
    """Whether the host at `address` (host:port) says that nobody listens there."""
    try:
        host, port = parted(address)
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), CONNECT_S)
    except ConnectionRefusedError:
        return True
    except (OSError, ValueError, TimeoutError):
        return False
    writer.close()
    return False
