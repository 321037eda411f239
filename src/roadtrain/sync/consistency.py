"""The two questions of every strategy, as pure functions: may the owner apply now, and may this worker go on?

`clocks` knows the workers that take part: a newcomer is in it from its first contribution on, so nobody waits for one that
is still loading the state.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from roadtrain.view import PeerId


def closes(arrived: Collection[PeerId], clocks: Mapping[PeerId, int], members: Collection[PeerId], backup: int) -> bool:
    """A round closes when every member's contribution is in, but for the `backup` slowest (Chen et al. 2016, 1604.00981)."""
    part = [member for member in members if member in clocks]
    here = sum(member in arrived for member in part)
    return here > 0 and here >= len(part) - backup


def slowest(clocks: Mapping[PeerId, int], members: Collection[PeerId], default: int) -> int:
    """The clock of the slowest member that takes part."""
    return min((clocks[member] for member in members if member in clocks), default=default)


def lead(clock: int, slow: int) -> int:
    """How many clocks a worker at `clock` is ahead of the slowest, which is at `slow` (0 when it is the slowest)."""
    return max(0, clock - slow)


def admits(ahead: int, staleness: int | None) -> bool:
    """Whether a worker that is `ahead` clocks in front may have the state and go on (SSP, Ho et al. 2013)."""
    return staleness is None or ahead <= staleness
