"""Codes with which a WebSocket is closed, and which of them are for good."""

from __future__ import annotations

MALFORMED, TOO_LONG, ELSEWHERE = 1003, 1009, 1012
UNAUTHORISED, OVER, DIFFERS, WRONG_VERSION = 4401, 4404, 4422, 4426
FINAL = frozenset({MALFORMED, TOO_LONG, UNAUTHORISED, OVER, DIFFERS, WRONG_VERSION})
"""Whoever is closed with one of these need not come again."""
