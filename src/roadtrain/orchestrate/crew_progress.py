"""What a person at a machine that has joined a fleet is told of the workers there: who begins, how far they are, who ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from roadtrain.orchestrate.crew import Hand, Key, key_of

LINES_S = (5.0, 60.0)
"""Seconds between two lines of one worker: they grow from the first to the second."""


class CrewProgress:
    """Of one machine. `say` is told lines."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._due: dict[Key, tuple[float, float]] = {}

    def look(self, hands: Iterable[Hand], now: float) -> None:
        """Say what is new at `now` (seconds on any clock)."""
        here = {key_of(hand.order): hand for hand in hands}
        for key in [key for key in self._due if key not in here or here[key].state != "running"]:
            del self._due[key]
            run, _, slot = key
            self._say(f"{run}: w{slot} has ended{_how(here.get(key))}")
        for key, hand in here.items():
            run, _, slot = key
            if hand.state != "running":
                continue
            if key not in self._due:
                self._due[key] = now + LINES_S[0], LINES_S[0]
                self._say(f"{run}: w{slot} begins")
            due, pause_s = self._due[key]
            if now >= due and hand.step:
                pause_s = min(2 * pause_s, LINES_S[1])
                self._due[key] = now + pause_s, pause_s
                loss = "" if hand.loss is None else f", loss {hand.loss:.4g}"
                self._say(f"{run}: w{slot} is at step {hand.step:,}{loss}")


def _how(hand: Hand | None) -> str:
    if hand is None:
        return ""
    loss = "" if hand.loss is None else f", loss {hand.loss:.4g}"
    return f" at step {hand.step:,}{loss}" if not hand.code else f" with exit code {hand.code}"
