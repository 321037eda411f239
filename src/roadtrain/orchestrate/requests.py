"""What a fleet's coordinator is asked over HTTP, with its checks."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
from fastapi import Request, Response

from roadtrain.errors import PeerError, UsageError
from roadtrain.version import VERSION

BODY_BYTES_MAX = 4_000_000


class Bytes(Response):
    """An answer that is not JSON: a file, whatever it holds."""

    media_type = "application/octet-stream"


class Versioned(Protocol):
    """A request that says what its sender speaks."""

    @property
    def protocol(self) -> int: ...

    @property
    def version(self) -> str: ...


def decoded(decoder: msgspec.json.Decoder[Any], raw: bytes) -> Any:
    """What was sent. Raises PeerError."""
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError(f"not understood: {error}") from None


def check_version(asked: Versioned, protocol: int) -> None:
    """Raises UsageError unless it speaks `protocol`."""
    if asked.protocol != protocol:
        raise UsageError(
            f"the coordinator runs roadtrain {VERSION}, this machine {asked.version}", "install the same one"
        )


async def body_of(request: Request) -> bytes:
    """What was sent, if it is not too long."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise PeerError("a request that is too long")
    return bytes(body)
