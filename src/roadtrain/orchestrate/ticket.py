"""The ticket: one pasted word with which a machine or a person comes to a coordinator.

It carries where the coordinator is, a hash of its key, so that it is known before anything is said to it, and a secret with a
role. What the role may do, for how long and how often, the coordinator knows by the ticket's id (`register.py`); it keeps a
hash of the secret alone.

As text: "rt1" and base64url, without padding, of

    1 byte   the role
    8 bytes  the id
    32 bytes SHA-256 of the coordinator's public key (SubjectPublicKeyInfo, DER)
    16 bytes the secret
    n bytes  addresses, host:port or wss://host (`tunnel/`), with commas between, UTF-8
    4 bytes  the first of the SHA-256 of all before
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import urlsplit

from roadtrain.errors import UsageError
from roadtrain.orchestrate.tunnel.forwarder import is_wrapped
from roadtrain.wire.address import parted

MARK = "rt1"
VARIABLE = "ROADTRAIN_TICKET"
"""Holds a ticket, or the name of a file that does, for Python code that is given none."""
ID_BYTES, PIN_BYTES, SECRET_BYTES, CHECK_BYTES = 8, 32, 16, 4
HEAD_BYTES = 1 + ID_BYTES + PIN_BYTES + SECRET_BYTES
HINT = "paste the whole word that `roadtrain coordinator` or `roadtrain token create` has printed"


class Role(Enum):
    """What a ticket is for. OWNER: everything, also to make tickets and to revoke them."""

    OWNER = "owner"
    WORKER = "worker"
    FEEDER = "feeder"
    VIEWER = "viewer"
    DRIVER = "driver"


ROLES = tuple(Role)
"""In the order of their numbers on the ticket."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """`pin`: of the coordinator's key. `addresses`: where (host:port) it may be, the likeliest first."""

    role: Role
    id: str
    pin: bytes
    secret: bytes
    addresses: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Ticket({self.role.value}, {self.id})"

    def text(self) -> str:
        """The word to paste."""
        body = bytes([ROLES.index(self.role)]) + bytes.fromhex(self.id) + self.pin + self.secret
        body += ",".join(self.addresses).encode()
        whole = base64.urlsafe_b64encode(body + _check(body)).decode().rstrip("=")
        return MARK + whole

    @classmethod
    def parse(cls, text: str) -> Ticket:
        """Raises UsageError for what is no ticket, or not all of one. The text itself is not in the error: it is a secret."""
        word = text.strip()
        if not word.startswith(MARK):
            raise UsageError("this is no ticket of roadtrain", HINT)
        try:
            raw = base64.b64decode(word[len(MARK) :] + "=" * (-len(word[len(MARK) :]) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise UsageError("this ticket has characters that no ticket has", HINT) from None
        body, check = raw[:-CHECK_BYTES], raw[-CHECK_BYTES:]
        if len(body) < HEAD_BYTES or check != _check(body) or body[0] >= len(ROLES):
            raise UsageError("this ticket is not whole, or was changed: its last characters do not fit the rest", HINT)
        at_pin = 1 + ID_BYTES
        at_secret = at_pin + PIN_BYTES
        addresses = tuple(filter(None, body[HEAD_BYTES:].decode(errors="replace").split(",")))
        for address in addresses:
            _check_address(address)
        return cls(ROLES[body[0]], body[1:at_pin].hex(), body[at_pin:at_secret], body[at_secret:HEAD_BYTES], addresses)

    @classmethod
    def read(cls, text: str) -> Ticket:
        """Of a word, or of the file that it names: so it need not stand where others see it. Raises UsageError."""
        if not text.startswith(MARK) and os.path.isfile(text):
            try:
                return cls.parse(Path(text).read_text(encoding="ascii"))
            except (OSError, ValueError) as error:
                raise UsageError(f"no ticket can be read from {text}", HINT) from error
        return cls.parse(text)

    @classmethod
    def given(cls, text: str | None) -> Ticket:
        """Of a word or a file; None: of what ROADTRAIN_TICKET holds. Raises UsageError."""
        found = text or os.environ.get(VARIABLE, "")
        if not found:
            raise UsageError("there is no ticket", f"give one, or a file that holds it, or set {VARIABLE}")
        return cls.read(found)

    @property
    def authorization(self) -> str:
        """What requests carry, once the coordinator has shown that it is the one."""
        return f"Bearer {self.text()}"


def draw(role: Role, pin: bytes, addresses: Sequence[str]) -> Ticket:
    """A new ticket."""
    return Ticket(role, secrets.token_bytes(ID_BYTES).hex(), pin, secrets.token_bytes(SECRET_BYTES), tuple(addresses))


def _check(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:CHECK_BYTES]


def _check_address(address: str) -> None:
    try:
        urlsplit(address).port if is_wrapped(address) else parted(address)
    except ValueError:
        raise UsageError("this ticket names an address that is none", HINT) from None
