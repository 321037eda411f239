"""What those say to a fleet's coordinator, and are told, who would feed or take data that are known by a name there."""

from __future__ import annotations

import msgspec

from roadtrain.errors import PeerError

PROTOCOL = 1
"""Raised by every change that another version would not understand."""


class DataRequest(msgspec.Struct, frozen=True):
    """`feeds`: it would feed them, else take them."""

    protocol: int
    version: str
    feeds: bool


class DataOrder(msgspec.Struct, frozen=True):
    """The secret of those who feed and take them. They meet at /data/NAME."""

    token: str


_order = msgspec.json.Decoder(DataOrder)


def order_of(raw: bytes) -> DataOrder:
    """What the coordinator has answered. Raises PeerError for anything else."""
    try:
        return _order.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError(f"not where data are: {error}") from None
