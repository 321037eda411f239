"""What a state machine gives back: everything that should happen, as data. There is nothing else to ask it for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from roadtrain.codec import Packet
from roadtrain.lease import Assignment, Leases
from roadtrain.message import Envelope, Left, Remote, Snapshot
from roadtrain.view import FragmentId, PeerId


@dataclass(frozen=True, slots=True)
class Committed:
    """A version came to be, made of the contributions of `workers`."""

    fragment: FragmentId
    version: int
    workers: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class Counted:
    """These contributions, of whom computed on what, are in for good: the standby can account for them. Whoever takes over
    tells those that came last once more."""

    contributions: tuple[tuple[PeerId, Leases], ...]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A contribution does not count, as other ones have brought in some of what it was computed on."""

    fragment: FragmentId
    worker: PeerId
    clock: int


@dataclass(frozen=True, slots=True)
class TakenBack:
    """What a lost worker had contributed to fragment 0 is not in in all others, and is computed again."""

    worker: PeerId
    leases: Leases


@dataclass(frozen=True, slots=True)
class Refused:
    """A contribution was not applied: not finite, corrupted or foreign."""

    fragment: FragmentId
    worker: PeerId
    clock: int
    reason: str


@dataclass(frozen=True, slots=True)
class Spoils:
    """Nothing that a worker contributes to a fragment can be used, while what others do can."""

    fragment: FragmentId
    worker: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class Apart:
    """Workers that step by themselves do not do the same: `what` differs at one of these from what it is at the others."""

    what: str
    workers: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class HandedOff:
    """This peer took a fragment over from an owner that was lost."""

    fragment: FragmentId
    version: int


@dataclass(frozen=True, slots=True)
class Resent:
    """Something was asked or said again, because its answer did not come."""

    fragment: FragmentId


@dataclass(frozen=True, slots=True)
class Orphaned:
    """The view gives this peer a fragment whose state it never had: owner and standby were lost together."""

    fragment: FragmentId


@dataclass(frozen=True, slots=True)
class Diverged:
    """This peer, standing by, repeated the commit of `version` and came to other bits than the owner."""

    fragment: FragmentId
    version: int


@dataclass(frozen=True, slots=True)
class Synced:
    """This peer stands by for a fragment, and has its whole state now: it could take over. Not `whole`: it had, and is to be
    given it anew."""

    fragment: FragmentId
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Evicted:
    """The current view does not have this peer: it was taken for lost, and may only come back as a newcomer."""

    view: int


Event: TypeAlias = (
    Apart
    | Committed
    | Counted
    | LeftOut
    | TakenBack
    | Refused
    | Spoils
    | HandedOff
    | Resent
    | Orphaned
    | Diverged
    | Synced
    | Evicted
)


class Install(NamedTuple):
    """The replica may load this state of a fragment. It answers the contribution of `clock`. `work`: as in Params."""

    fragment: FragmentId
    clock: int
    version: int
    staleness: int
    lead: int
    full: bool
    packet: Packet
    work: Assignment | None = None


class Effects:
    """The whole output of one step. Envelopes may be lost, doubled or reordered on their way.

    Made for every message: as a plain class, since the lists of a dataclass cost as much as the step itself.
    """

    __slots__ = ("assigned", "collected", "events", "installs", "left", "sends")

    def __init__(self) -> None:
        self.sends: list[Envelope] = []
        self.installs: list[Install] = []
        self.left: list[Left] = []
        self.collected: list[Snapshot] = []
        self.assigned: list[Assignment] = []
        self.events: list[Event] = []


class Out:
    """What one role of a peer wants said and known; the peer stamps the messages and routes them."""

    __slots__ = ("events", "messages")

    def __init__(self) -> None:
        self.messages: list[tuple[PeerId, Remote]] = []
        self.events: list[Event] = []

    def say(self, destination: PeerId, message: Remote) -> None:
        self.messages.append((destination, message))
