"""Who takes part and who holds what: plain data that every floor speaks, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

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
