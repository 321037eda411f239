"""Where a worker looks for the coordinator, and when it takes its place.

| a worker | that is | until |
|---|---|---|
| follows | connected to a coordinator that decides | the connection ends, and is not there again |
| seeks | looking where it was, and at the first of its heirs (`NewView.heirs`) whose process lives | one of them decides |
| asks | it is an heir, and its own coordinator asks the members (`membership/recall.py`) | that decides, or another does |

A coordinator whose process is gone (its host refuses the connection) is succeeded at once, one whose host is silent after a
moment. One that stands still is waited for: its host takes connections, and it will go on where it was.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Mapping
from typing import Protocol

from roadtrain.errors import RoadtrainError
from roadtrain.membership.messages import NewView, RunSpec
from roadtrain.view import PeerId
from roadtrain.wire.address import family, joined, parted

CONNECT_S = 2.0
"""Whoever does not answer for so long is silent."""
TRUST_S = 30.0
"""After so long without a coordinator nobody becomes one any more, nor takes a process that is gone for dead: the run may have
gone on elsewhere, and ended. Nor does one that has stood still itself, and cannot know for how long it was away."""
ANSWER_S = 5.0
"""So long an heir whose process lives is given to take the place; then it is the next one's turn."""
REFUSED_S, SILENT_S = 0.3, 3.0
"""How long the coordinator is away before an heir takes its place: one whose process is gone, one whose host is silent."""


WAITING = 4096
"""Connections that a host keeps for an heir; each look at whether it lives is one, until it takes them."""


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

    def remember(self, heirs: Mapping[PeerId, str]) -> None:
        """Who takes the coordinator's place, for a later process of this worker."""
        ...

    def remembered(self) -> Mapping[PeerId, str]:
        """What an earlier process of this worker was told."""
        ...


class Succession:
    """Of the coordinator that was first at `url`. `host`: the address of this host; `heir`: None for a worker that will never be
    the coordinator."""

    def __init__(self, url: str, host: str, heir: Heir | None) -> None:
        self.url = self._first = url
        self._scheme = url.partition("://")[0]
        self._host, self._heir = host, heir
        self._listener = None if heir is None else _reserve(host)
        self._asking: Asking | None = None
        self._away_s: float | None = None
        self._patience_s: float | None = None
        self._skipped: set[str] = set()
        self._looked = False
        self._trusted = False

    @property
    def succeeded(self) -> bool:
        """Whether another coordinator has taken the first one's place."""
        return self.url != self._first

    @property
    def address(self) -> str:
        """host:port at which this worker would be the coordinator. Before, its host takes connections there as long as the
        process lives, and nobody answers."""
        return "" if self._listener is None else joined(self._host, self._listener.getsockname()[1])

    async def next(self, me: PeerId, spec: RunSpec | None, told: NewView | None) -> str:
        """Where to look now: where the coordinator was last, then at the heir that is to take its place: perhaps this worker."""
        if self._asking is not None and self._asking.has_yielded:
            self._asking = None
        if self._asking is not None:
            return self._url_of(self.address)
        self._looked = not self._looked or self._patience_s is None
        heirs = self._remembered() if told is None else told.heirs
        elected = None if self._looked else await self._elect(heirs)
        if elected is None:
            return self.url
        if elected != me:
            return self._url_of(heirs[elected])
        if spec is not None and self._may_rise(asyncio.get_running_loop().time()):
            await self._rise(me, spec, heirs)
        return self.url if self._asking is None else self._url_of(self.address)

    def told(self, heirs: Mapping[PeerId, str]) -> None:
        """A coordinator has named those who take its place."""
        if self._heir is not None:
            self._heir.remember(heirs)

    def _remembered(self) -> Mapping[PeerId, str]:
        return {} if self._heir is None else self._heir.remembered()

    async def _elect(self, heirs: Mapping[PeerId, str]) -> PeerId | None:
        """The first whose process lives, of those that have not failed to answer."""
        gone = await asyncio.gather(*(_is_away(address) for address in heirs.values()))
        living = [peer for peer, away in zip(heirs, gone, strict=True) if not away]
        left = [peer for peer in living if heirs[peer] not in self._skipped]
        if not left:
            self._skipped.clear()
        return left[0] if left else None

    def _may_rise(self, now: float) -> bool:
        """Whether the coordinator has been away for long enough to be taken for lost, and not for too long."""
        if not self._trusted or self._away_s is None or self._patience_s is None:
            return False
        return self._patience_s <= now - self._away_s < TRUST_S

    def stood_still(self) -> None:
        """This process has, for longer than it may be silent."""
        self._trusted = False

    async def _rise(self, me: PeerId, spec: RunSpec, heirs: Mapping[PeerId, str]) -> None:
        """Have this process serve; where it cannot, its turn is over, and it goes on as a worker."""
        assert self._heir is not None, "it is an heir"
        assert self._listener is not None, "it is an heir"
        own = self._url_of(self.address)
        urls = {peer: self._url_of(address) for peer, address in heirs.items()}
        others = list(dict.fromkeys([self.url, *urls.values()]))
        before = list(urls.values())[: list(urls).index(me)]
        # A duplicate: when it yields its socket is closed, and this process lives all the same.
        listener = self._listener.dup()
        others = [url for url in others if url != own]
        try:
            self._asking = await asyncio.to_thread(self._heir.rise, spec, listener, others, before)
        except (OSError, RoadtrainError) as error:
            print(f"{me} cannot take the coordinator's place: {error}", file=sys.stderr, flush=True)
            listener.close()
            self._trusted = False

    def _url_of(self, address: str) -> str:
        return f"{self._scheme}://{address}"

    def found(self, url: str, *, leads: bool) -> None:
        """A coordinator has answered at `url`. `leads`: it decides."""
        if leads:
            self.url, self._away_s, self._looked, self._trusted = url, None, False, True
            self._skipped.clear()

    def lost(self, now: float) -> None:
        """A connection to a coordinator has ended; it may take another one at once."""
        self._away_s = now if self._away_s is None else self._away_s
        self._patience_s, self._looked = None, False

    def failed(self, url: str, error: BaseException, now: float) -> None:
        """There is no coordinator at `url`: what a connection came to."""
        self._away_s = now if self._away_s is None else self._away_s
        if url == self.url:
            self._patience_s = _patience_s(error)
        else:
            self._skipped.add(url.partition("://")[2])


def _reserve(host: str) -> socket.socket:
    listener = socket.socket(family(host), socket.SOCK_STREAM)
    listener.bind((host, 0))
    listener.listen(WAITING)
    return listener


def _patience_s(error: BaseException) -> float | None:
    match error:
        case Mute():
            return None
        case ConnectionRefusedError():
            return REFUSED_S
        case _:
            return SILENT_S


async def is_refused(address: str) -> bool:
    """Whether the host at `address` (host:port) says that nobody listens there."""
    return isinstance(await _reach(address), ConnectionRefusedError)


async def _is_away(address: str) -> bool:
    return await _reach(address) is not None


async def _reach(address: str) -> Exception | None:
    """What stands against a connection to `address`."""
    try:
        host, port = parted(address)
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, ValueError, TimeoutError) as error:
        return error
    writer.close()
    return None
