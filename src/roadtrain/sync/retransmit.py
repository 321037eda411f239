"""When a peer asks again for what it still waits for: the longer, the longer answers take on its links."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from roadtrain.message import Contribute, Envelope, Local, ViewChanged
from roadtrain.sync.effects import Effects, Install
from roadtrain.view import FragmentId

PATIENCE_MAX = 16
"""Repeats back off up to so many times the first interval."""
INTERVAL_MAX_S = 60.0
"""Longest first interval, whatever was learned."""
REMEMBERED = 32
"""Answers whose times are kept, to know what an answer takes on these links."""


class Timer:
    """`resend_s`: first repeat, at the earliest. `wake_at`: when to repeat; None while nothing is waited for."""

    def __init__(self, resend_s: float) -> None:
        self.wake_at: float | None = None
        self._resend_s = resend_s
        self._patience = 1
        self._asked_at: dict[FragmentId, float] = {}
        self._took: deque[float] = deque(maxlen=REMEMBERED)

    def ring(self) -> None:
        """Its time has come: questions are repeated now."""
        self._patience = min(2 * self._patience, PATIENCE_MAX)
        self.wake_at = None
        self._asked_at.clear()

    def set(self, event: Envelope | Local, effects: Effects, waits: bool, now: float) -> None:
        """After `event` at `now`, which brought `effects` about; `waits`: whether answers are still to come."""
        contributed = isinstance(event, Contribute)
        if contributed:
            self._asked_at[event.push.fragment] = now
        if effects.installs:
            self._learn(effects.installs, now)
        if contributed or effects.installs or isinstance(event, ViewChanged):
            self._patience = 1
            self.wake_at = None
        if not waits:
            self.wake_at = None
        elif self.wake_at is None:
            self.wake_at = now + self._interval_s() * self._patience

    def _learn(self, installs: Sequence[Install], now: float) -> None:
        for install in installs:
            asked = self._asked_at.pop(install.fragment, None)
            if asked is not None:
                self._took.append(now - asked)

    def _interval_s(self) -> float:
        """Twice what a whole exchange takes: fragments follow each other, so the first quarter is there in a quarter of that.

        A repeat of what is still on a slow line would make it slower. Times that hold a repeat say nothing about the line:
        this peer's own are not learned (Karn and Partridge 1987), and those of others are rarely among the fastest.
        """
        if not self._took or self._resend_s >= INTERVAL_MAX_S:  # then nothing that was learned would change it
            return self._resend_s
        quarter = sorted(self._took)[len(self._took) // 4]
        return max(self._resend_s, min(8 * quarter, INTERVAL_MAX_S))
