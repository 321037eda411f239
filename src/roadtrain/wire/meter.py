"""Counts the bytes that gRPC carried for messages.

What it says beside them is left out: hellos, acknowledgements (a few bytes for each frame), HTTP/2's own frames.
"""

from __future__ import annotations

from dataclasses import dataclass

MESSAGE_OVERHEAD = 5
"""gRPC's prefix of a message."""
FRAME_OVERHEAD = 9
"""HTTP/2's header of a DATA frame."""
FRAME_BYTES = 16384
"""Payload of one HTTP/2 DATA frame."""


def carried(size: int) -> int:
    """Bytes that a gRPC message of `size` bytes takes on a connection."""
    framed = size + MESSAGE_OVERHEAD
    return framed + FRAME_OVERHEAD * -(-framed // FRAME_BYTES)


@dataclass(slots=True)
class Meter:
    """Totals of one process, in bytes."""

    sent: int = 0
    received: int = 0
    receiving_bytes: int = 0
    """Payload that came after the first frame of its message."""
    receiving_s: float = 0.0
    """Seconds in which it came: from a message's first frame to its last, added up over messages and peers."""
    refused: int = 0
    """Messages that were dropped because their bytes were wrong."""
