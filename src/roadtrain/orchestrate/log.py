"""What a coordinator that stays says of itself on stderr: for a person on a terminal, one JSON object a line otherwise."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

AGAIN_S = 60.0
"""The same is said once in so long, with how often it has happened meanwhile."""
KINDS_MAX = 1000


@dataclass(slots=True)
class _Said:
    """What was said at `since`, and has happened so often more."""

    since: float
    event: str
    details: dict[str, Any]
    more: int = 0


class Log:
    """`say` writes a line. What is said again and again costs a line now and then."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, ...], _Said] = {}

    def say(self, event: str, **details: Any) -> None:
        """It has happened. Without secrets: whoever reads the log is not let in by it."""
        if sys.stderr.isatty():
            print(f"{time.strftime('%H:%M:%S')} {event}{_in_words(details)}", file=sys.stderr, flush=True)
        else:
            print(json.dumps({"time_s": round(time.time(), 3), "event": event, **details}), file=sys.stderr, flush=True)

    def seldom(self, event: str, key: tuple[str, ...], **details: Any) -> None:
        """It has happened, as it may a thousand times a second: said the first time for `key`, and once a minute then."""
        now = time.monotonic()
        before = self._said.get((event, *key))
        if before is not None and now - before.since < AGAIN_S:
            before.more += 1
            return
        if len(self._said) >= KINDS_MAX:
            self._said.clear()
        self._said[event, *key] = _Said(now, event, details)
        self.say(event, **details, **({"more": before.more} if before is not None and before.more else {}))

    def settle(self) -> None:
        """Time has passed: say how often more what was said by `seldom` has happened, where it came to an end."""
        now = time.monotonic()
        for key, said in [(key, said) for key, said in self._said.items() if now - said.since >= AGAIN_S]:
            del self._said[key]
            if said.more:
                self.say(said.event, **said.details, more=said.more)


def _in_words(details: Mapping[str, Any]) -> str:
    return f": {', '.join(f'{name} {_plain(value)}' for name, value in details.items())}" if details else ""


def _plain(value: Any) -> str:
    """Without what would drive a terminal: strangers choose the path that they ask for."""
    return str(value).encode("unicode_escape").decode()
