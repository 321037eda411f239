"""The two questions of every strategy, as pure functions: may the owner apply now, and may this worker go on?"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from roadtrain.message import PeerId


def closes(arrived: Collection[PeerId], members: Collection[PeerId]) -> bool:
    """A round closes when every member's contribution is in."""
    return all(member in arrived for member in members)


def lead(clock: int, clocks: Mapping[PeerId, int], members: Collection[PeerId]) -> int:
    """How many clocks a worker at `clock` is ahead of the slowest member (0 when it is the slowest)."""
    return max(0, clock - min((clocks.get(member, 0) for member in members), default=clock))


def admits(ahead: int, staleness: int | None) -> bool:
    """Whether a worker that is `ahead` clocks in front may have the state and go on (SSP, Ho et al. 2013)."""
    return staleness is None or ahead <= staleness
