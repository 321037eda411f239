"""How much memory connections may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds in bytes. `message`: of one message's body that is accepted; one for each peer may be half there. `queue`: of what
    waits for one peer, or is under way to it; the message that goes over it is dropped, and the protocol asks again. `inbox`: of
    what was received and not yet looked at; over that, streams are not read, and their senders wait."""

    message: int
    queue: int = 1 << 30
    inbox: int = 64 << 20
