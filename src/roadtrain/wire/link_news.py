"""When it is worth telling others how this process is connected to its peers (sans-IO)."""

from __future__ import annotations

from collections.abc import Mapping

from roadtrain.view import LinkState, PeerId

LOOK_S = 0.25
"""How often connections are looked at."""
QUIET_S = 5.0
"""Shortest time between two reports of figures; another way is told at once."""
NEWS = 0.25
"""A figure that differs by less than this part of it is no news."""


class LinkNews:
    """`told`: what was told last, and `uplink`: what all that is sent may take, in bytes per second, of which the same holds."""

    def __init__(self) -> None:
        self.told: Mapping[PeerId, LinkState] = {}
        self.uplink: float | None = None
        self._quiet_until = 0.0

    def look(self, states: Mapping[PeerId, LinkState], uplink: float | None, now: float) -> bool:
        """Whether they are to be told now; they count as told then."""
        if _ways(states) == _ways(self.told):
            differs = _differs(uplink, self.uplink) or any(_differ(states[p], self.told[p]) for p in states)
            if now < self._quiet_until or not differs:
                return False
        self.told, self.uplink, self._quiet_until = dict(states), uplink, now + QUIET_S
        return True


def _ways(states: Mapping[PeerId, LinkState]) -> dict[PeerId, str]:
    return {peer: state.via for peer, state in states.items()}


def _differ(one: LinkState, other: LinkState) -> bool:
    return _differs(one.rtt_ms, other.rtt_ms) or _differs(one.mb_per_s, other.mb_per_s)


def _differs(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is not other
    return abs(one - other) > NEWS * max(one, other)
