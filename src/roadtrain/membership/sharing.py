"""Data that are known by a name at a coordinator, sans-IO: who feeds them, who takes them, and what they are.

No run has a part in it. Whoever comes says who it is on every connection, and is told the whole of what it needs to know whenever
that changes, so nothing is missed when either end is lost and comes back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from roadtrain.errors import PeerError, UsageError
from roadtrain.view import PeerId, Place

PROTOCOL = 1
"""Raised by every change that another version would not understand."""
GONE_S = 1.0
"""Whose connection broke has so long to come back."""
INCARNATION = 1
"""Of all: a process that is started again has another name."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Offer(msgspec.Struct, frozen=True):
    """Which data they are: `size` samples, None of a stream. `batch`: how many make a batch, where the feeder's DataLoader says
    so, else 0. `sample`: a hash of some of them."""

    size: int | None
    batch: int
    sample: str


class Caller(msgspec.Struct, frozen=True):
    """First on every connection: which process it is, and where those at the other side can dial it (host:port; "" for nowhere).
    `offer`: what it feeds; None: it takes."""

    protocol: int
    version: str
    name: PeerId
    address: str
    offer: Offer | None = None


class Told(msgspec.Struct, frozen=True):
    """To a caller: who is at the other side. `offer`: what is fed; None as long as nobody has fed anything."""

    others: dict[PeerId, Place]
    offer: Offer | None


_caller = msgspec.msgpack.Decoder(Caller)
_told = msgspec.msgpack.Decoder(Told)
encode = msgspec.msgpack.encode


def caller_of(raw: bytes) -> Caller:
    """What has come. Raises PeerError for anything else."""
    try:
        said = _caller.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError(f"not a caller's hello: {error}") from None
    if not _NAME.fullmatch(said.name) or (
        said.offer is not None and said.offer.size is not None and said.offer.size < 1
    ):
        raise PeerError("not a caller's hello")
    return said


def told_of(raw: bytes) -> Told:
    """What the coordinator has sent. Raises PeerError for anything else."""
    try:
        return _told.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError(f"not what a caller is told: {error}") from None


def check_data_name(name: str) -> None:
    """Raises UsageError for what data cannot be called."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"data cannot be named {name!r}", "a name has letters, digits, '.', '_' and '-', 64 at most")


def difference(here: Offer, there: Offer) -> str:
    """What is not the same of two offers, in words; "" where they mean the same data."""
    if here.size != there.size:
        return f"{_length(here)} here, {_length(there)} there"
    if here.batch != there.batch:
        return f"batches of {here.batch} here, of {there.batch} there"
    return (
        "" if here == there else "as many samples, but others: are the files, the packages and the transforms the same?"
    )


def _length(offer: Offer) -> str:
    return "a stream" if offer.size is None else f"{offer.size} samples"


@dataclass(slots=True)
class _Record:
    """Of one caller. `connection`: the number of its present one. `gone_s`: when that broke; None while it stands."""

    said: Caller
    connection: int
    gone_s: float | None = None


class SharedData:
    """Those at one name. `offer`: of its feeders, also when none of them is there any more."""

    def __init__(self) -> None:
        self.offer: Offer | None = None
        self._callers: dict[PeerId, _Record] = {}
        self._connections = 0

    def come(self, said: Caller) -> int:
        """A caller has connected; the number of its connection. Raises UsageError for a feeder that feeds other data than those
        that are there."""
        if said.offer is not None:
            if self.offer is not None and self._feeders():
                found = difference(said.offer, self.offer)
                if found:
                    raise UsageError(found)
            self.offer = said.offer
        self._connections += 1
        self._callers[said.name] = _Record(said, self._connections)
        return self._connections

    def disconnected(self, name: PeerId, connection: int, now: float) -> None:
        """That connection broke; another may stand already."""
        record = self._callers.get(name)
        if record is not None and record.connection == connection:
            record.gone_s = now

    def leave(self, name: PeerId) -> None:
        """It goes, and has said so."""
        self._callers.pop(name, None)

    def tick(self, now: float) -> None:
        """Time has passed."""
        for name, record in list(self._callers.items()):
            if record.gone_s is not None and now - record.gone_s > GONE_S:
                del self._callers[name]

    def _feeders(self) -> list[_Record]:
        return [record for record in self._callers.values() if record.said.offer is not None]

    def told(self, said: Caller) -> Told:
        """What a caller is to know."""
        wanted = said.offer is None
        others = [each.said for each in self._callers.values() if (each.said.offer is not None) is wanted]
        return Told({other.name: Place(other.address, INCARNATION) for other in others}, self.offer)
