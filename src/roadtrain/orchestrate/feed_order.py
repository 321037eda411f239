"""What a machine that feeds asks of a fleet's coordinator, and is told: the runs of its target, all of them each time."""

from __future__ import annotations

import hashlib

import msgspec

from roadtrain.errors import PeerError, UsageError
from roadtrain.plan import Target

PROTOCOL = 1
"""Raised by every change that another version would not understand."""


class FeedRequest(msgspec.Struct, frozen=True):
    """First: it would feed the runs of the target with this key (`key_of`). `host`: its name."""

    protocol: int
    version: str
    host: str
    key: str


class FeedOrder(msgspec.Struct, frozen=True):
    """A run that goes on, the `attempt` of it whose coordinator is at /runs/RUN/ATTEMPT, and the run's secret."""

    run: str
    attempt: int
    token: str


_orders = msgspec.json.Decoder(tuple[FeedOrder, ...])


def orders_of(raw: bytes) -> tuple[FeedOrder, ...]:
    """What the coordinator has answered. Raises PeerError for anything else."""
    try:
        return _orders.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError(f"not runs to feed: {error}") from None


def key_of(target: str) -> str:
    """What makes two targets the same on different machines: the name of a recipe or a module, and what a file holds. Raises
    UsageError where there is no such file."""
    found = Target.parse(target)
    if found.file is None:
        return f"{found.name or found.module}:{found.function}"
    try:
        return f"{hashlib.sha256(found.file.read_bytes()).hexdigest()}:{found.function}"
    except OSError as error:
        raise UsageError(f"cannot read {found.file} ({error.strerror})") from error
