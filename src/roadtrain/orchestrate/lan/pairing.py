"""Six digits, read from one screen and typed at another, change into a ticket (sans-IO).

A password-authenticated key exchange, SPAKE2 (RFC 9382): whoever listens, or stands between, learns nothing by which the digits
could be tried out; each guess is one conversation with the coordinator, and after five wrong ones it has none for a minute. The
hash of the coordinator's key is part of it, as the joiner has seen it in TLS: with another's certificate no key is agreed on.

| step | from | says |
|---|---|---|
| 1 | machine | its half of the exchange |
| 2 | coordinator | its own half, and the number of this conversation |
| 3 | machine | the number, and the proof that it has the key |
| 4 | coordinator | the ticket, and the proof that it comes from who has the key |
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from spake2 import SPAKE2_A, SPAKE2_B

from roadtrain.errors import PeerError, UsageError

DIGITS = 6
TRIES, CLOSED_S = 5, 60.0
"""After so many wrong digits in a row nobody is let in for so many seconds."""
OPEN_MAX, OPEN_S = 32, 30.0
"""Conversations at a time, and how long one may last: whoever leaves it open is told nothing."""
HALF_BYTES = 33
"""Of one half: a byte that says whose, and a point of Curve25519."""


def draw_digits() -> str:
    """New ones."""
    return f"{secrets.randbelow(10**DIGITS):0{DIGITS}d}"


def shown(digits: str) -> str:
    """As people read them."""
    return f"{digits[:3]} {digits[3:]}"


def typed(text: str) -> str:
    """Digits as people write them. Raises Mistyped for what are not six."""
    digits = "".join(text.split()).replace("-", "")
    if len(digits) != DIGITS or not (digits.isascii() and digits.isdigit()):
        raise Mistyped(f"these are not {DIGITS} digits", "roadtrain coordinator --lan shows them")
    return digits


class Mistyped(UsageError):
    """No six digits."""


class Closed(UsageError):
    """Too many wrong digits: nobody is let in for a while."""


class WrongDigits(UsageError):
    """The machine has other digits than the coordinator, or somebody stands between them. It may try `left` times again."""

    def __init__(self, left: int) -> None:
        super().__init__(
            "these are not the digits that the coordinator shows", f"{left} more {'try' if left == 1 else 'tries'}"
        )
        self.left = left


@dataclass(frozen=True, slots=True)
class Key:
    """What both ends have after step 2, when they have the same digits."""

    secret: bytes

    def proof(self, of: str, more: bytes = b"") -> bytes:
        """32 bytes that say: `of` ("machine" or "coordinator") has the key, and says `more`."""
        return hmac.digest(self.secret, of.encode() + b"\0" + more, hashlib.sha256)

    def proves(self, proof: bytes, of: str, more: bytes = b"") -> bool:
        """Whether `proof` is that."""
        return hmac.compare_digest(proof, self.proof(of, more))


class Caller:
    """The machine's end: `half` is what it says in step 1. `pin`: the hash of the key that TLS has shown."""

    def __init__(self, digits: str, pin: bytes) -> None:
        self._exchange = SPAKE2_A(digits.encode(), idA=b"machine", idB=pin)
        self.half: bytes = self._exchange.start()

    def key(self, half: bytes) -> Key:
        """Of the coordinator's half. Raises PeerError for what is none."""
        return Key(_finished(self._exchange.finish, half))


class Doorkeeper:
    """The coordinator's end, for as long as it shows `digits`. `pin`: the hash of its key. `now`: seconds on any clock."""

    def __init__(self, digits: str, pin: bytes) -> None:
        self._digits, self._pin = digits, pin
        self._wrong = 0
        self._closed_until = 0.0
        self._open: dict[str, tuple[Key, float]] = {}

    def begin(self, half: bytes, now: float) -> tuple[str, bytes]:
        """Step 2. Raises Closed, and PeerError."""
        self._check_open(now)
        exchange = SPAKE2_B(self._digits.encode(), idA=b"machine", idB=self._pin)
        own: bytes = exchange.start()
        key = Key(_finished(exchange.finish, half))
        self._open = {name: (key, until) for name, (key, until) in self._open.items() if until > now}
        if len(self._open) >= OPEN_MAX:
            del self._open[next(iter(self._open))]
        conversation = secrets.token_hex(16)
        self._open[conversation] = key, now + OPEN_S
        return conversation, own

    def finish(self, conversation: str, proof: bytes, now: float) -> Key:
        """The key with which step 4 is proved. Raises Closed, WrongDigits, and PeerError for a conversation that is not there."""
        self._check_open(now)
        key, until = self._open.pop(conversation, (None, 0.0))
        if key is None or until <= now:
            raise PeerError("there is no such conversation")
        if key.proves(proof, "machine"):
            self._wrong = 0
            return key
        self._wrong += 1
        if self._wrong >= TRIES:
            self._wrong, self._closed_until = 0, now + CLOSED_S
            self._open.clear()
            self._check_open(now)
        raise WrongDigits(TRIES - self._wrong)

    def _check_open(self, now: float) -> None:
        if now < self._closed_until:
            raise Closed(
                "the digits were wrong too often: nobody is let in by digits for a minute",
                f"try again in {self._closed_until - now:.0f} s, or paste a ticket",
            )


def _finished(finish: Callable[[bytes], bytes], half: bytes) -> bytes:
    """Raises PeerError for a half that is none, whatever makes it so."""
    if len(half) != HALF_BYTES:
        raise PeerError("half of a key exchange that is not as long as one")
    try:
        return finish(half)
    except Exception as error:  # the library checks points by assertions and errors of several kinds
        raise PeerError(f"no half of a key exchange ({type(error).__name__})") from None
