"""What many ask for again and again, made once for all of them. Lives on one asyncio loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import Response

SHARE = 0.02
"""So much of the time goes into making one of them at most: what took 20 ms is given out for a second."""
KEPT_BYTES_MAX = 16_000_000
"""Of all of them together; over that they are forgotten."""


class Answers:
    """JSON by what it answers. Numbers that are not finite become null: JSON has no others."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, bytes]] = {}
        self._bytes = 0
        """Of what was put there since it was empty."""

    def give(self, key: str, make: Callable[[], Any]) -> Response:
        """What `make` returns, or has returned a moment ago for the same `key`."""
        now = time.monotonic()
        until_s, said = self._kept.get(key, (0.0, b""))
        if now >= until_s:
            said = msgspec.json.encode(make())
            done = time.monotonic()
            self._bytes += len(said) + len(key)
            if self._bytes > KEPT_BYTES_MAX:
                self._kept.clear()
                self._bytes = len(said) + len(key)
            self._kept[key] = done + (done - now) / SHARE, said
        return Response(said, media_type="application/json")
