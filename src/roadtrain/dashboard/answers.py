"""What many ask for again and again, made once for all of them. Lives on one asyncio loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import Request, Response

SHARE, KEPT_S_MAX = 0.02, 1.0
"""So much of the processor's time goes into making one of them: what took 10 ms is given out for half a second, and none for more
than one."""
KEPT_BYTES_MAX = 16_000_000
"""Of all of them together; over that they are forgotten."""


class Answers:
    """JSON by what it answers. Numbers that are not finite become null: JSON has no others."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, bytes]] = {}
        self._bytes = 0
        """Of what was put there since it was empty."""

    def give(self, request: Request, key: str, make: Callable[[], Any]) -> Response:
        """What `make` returns, or has returned a moment ago for the same `key`; not the latter where the request has
        "Cache-Control: no-cache"."""
        until_s, said = self._kept.get(key, (0.0, b""))
        if time.monotonic() >= until_s or "no-cache" in request.headers.get("cache-control", ""):
            began_s = time.thread_time()
            said = msgspec.json.encode(make())
            took_s = time.thread_time() - began_s
            self._bytes += len(said) + len(key)
            if self._bytes > KEPT_BYTES_MAX:
                self._kept.clear()
                self._bytes = len(said) + len(key)
            self._kept[key] = time.monotonic() + min(KEPT_S_MAX, took_s / SHARE), said
        return Response(said, media_type="application/json")
