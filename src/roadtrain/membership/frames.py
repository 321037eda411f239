"""What travels on a connection of the control channel: MessagePack, as JSON has no NaN and no 64-bit integers.

| frame | from | when |
|---|---|---|
| Hello | worker | first on every connection |
| Welcome | coordinator | the answer |
| Up, Down | worker, coordinator | one numbered message |
| Beat | both | every second, and as an acknowledgement |
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from roadtrain.errors import PeerError
from roadtrain.membership.messages import Count, FromWorker, NewView, ToWorker

PROTOCOL = 8
"""Grows when an older worker would misunderstand a newer coordinator, or the other way round."""


class Frame(msgspec.Struct, frozen=True, tag=True):
    """One of them."""


class Hello(Frame, frozen=True):
    """Who connects: the process that drew this name. `heard`: the last message that it has taken in. `conversation`: how many it
    has begun so far; a coordinator that it comes back to from another one must not go on with the one that they had."""

    protocol: int
    version: str
    process: str
    heard: Count
    conversation: Count = 0


class Welcome(Frame, frozen=True):
    """`fresh`: this coordinator has not had that conversation, and both begin the next. `heard`: as in Hello. `leads`: it
    decides; otherwise it only asks whether it may."""

    protocol: int
    version: str
    heard: Count
    fresh: bool
    leads: bool = True


class Up(Frame, frozen=True):
    """Message `number` of a worker, which has heard up to `heard`."""

    number: Count
    heard: Count
    message: FromWorker


class Down(Frame, frozen=True):
    """Message `number` to a worker, of which `heard` messages were heard."""

    number: Count
    heard: Count
    message: ToWorker


class Beat(Frame, frozen=True):
    """This end lives. `at`: seconds of its own clock; `echo`: the last `at` of the other end, which came `held_s` ago.

    `step`, `waits`: of a worker, the steps that it has done, and whether it waits for others.
    """

    heard: Count
    at: float
    echo: float = 0.0
    held_s: float = 0.0
    step: Count = 0
    waits: bool = False


FromWorkers: TypeAlias = Hello | Up | Beat
FromCoordinator: TypeAlias = Welcome | Down | Beat
_encoder = msgspec.msgpack.Encoder()
_worker = msgspec.msgpack.Decoder(FromWorkers)
_coordinator = msgspec.msgpack.Decoder(FromCoordinator)


def encode(frame: FromWorkers | FromCoordinator) -> bytes:
    """The frame as bytes."""
    return _encoder.encode(frame)


class Announcer:
    """Encodes frames of which many say the same: a view of a thousand workers is told to a thousand."""

    def __init__(self) -> None:
        self._view: NewView | None = None
        self._encoded = msgspec.Raw()

    def encode(self, frame: FromCoordinator) -> bytes:
        """As `encode`; the view that was told last is not encoded again."""
        if not isinstance(frame, Down) or not isinstance(frame.message, NewView):
            return encode(frame)
        if frame.message is not self._view:
            self._view, self._encoded = frame.message, msgspec.Raw(_encoder.encode(frame.message))
        return _encoder.encode(msgspec.structs.replace(frame, message=self._encoded))


def from_worker(raw: bytes) -> FromWorkers:
    """What a worker has sent. Raises PeerError when it is no frame."""
    try:
        return _worker.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError(f"not a frame: {error}") from None


def from_coordinator(raw: bytes) -> FromCoordinator:
    """What the coordinator has sent. Raises PeerError when it is no frame."""
    try:
        return _coordinator.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError(f"not a frame: {error}") from None
