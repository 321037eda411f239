"""What a machine with six digits and a coordinator say to each other, as JSON; bytes as base64."""

from __future__ import annotations

import msgspec


class Half(msgspec.Struct, frozen=True):
    """Steps 1 and 2 of `pairing.py`. `conversation`: "" from the machine, which has none yet."""

    half: bytes
    conversation: str = ""


class Proof(msgspec.Struct, frozen=True):
    """Step 3."""

    conversation: str
    proof: bytes


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """Step 4."""

    ticket: str
    proof: bytes


class Wrong(msgspec.Struct, frozen=True, tag="wrong"):
    """Instead of it: the machine has other digits, and may try so often again."""

    left: int


Answer = Welcome | Wrong
