"""Who takes part, where, who holds what, and how two are connected: plain data that every floor speaks, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TypeAlias

import msgspec

PeerId: TypeAlias = str
FragmentId: TypeAlias = int


@dataclass(frozen=True, slots=True)
class Member:
    """One worker of a view. `incarnation` grows with every start of the process behind the name."""

    peer: PeerId
    incarnation: int


@dataclass(frozen=True)
class View:
    """Who takes part and who holds what. Numbered by the coordinator; a higher number replaces a lower one.

    `owners[f]` holds the authoritative copy of fragment f, `standbys[f]` its replica (None when nobody else is left).
    """

    number: int
    members: tuple[Member, ...]
    owners: tuple[PeerId, ...]
    standbys: tuple[PeerId | None, ...]

    @cached_property
    def peers(self) -> tuple[PeerId, ...]:
        return tuple(member.peer for member in self.members)

    @cached_property
    def incarnations(self) -> Mapping[PeerId, int]:
        """By member; one mapping for all who look, as a fleet that is simulated has as many views as members."""
        return {member.peer: member.incarnation for member in self.members}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process can be dialled (host:port; "" where it cannot), and which of those that had its name it is."""

    address: str
    incarnation: int


class Via(StrEnum):
    """By which way bytes go to a peer."""

    DIRECT = "direct"
    RELAY = "relay"


class LinkState(msgspec.Struct, frozen=True, gc=False):
    """How a worker is connected to a peer. `rtt_ms`: the shortest round trip of late, in milliseconds; `mb_per_s`: the highest
    rate at which what it sent arrived, in 1e6 bytes per second. None: nothing was measured. A coordinator holds many of them, all
    of them leaves (`gc`)."""

    via: Via
    rtt_ms: float | None
    mb_per_s: float | None
