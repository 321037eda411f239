"""What a coordinator does for whoever examines the way to it: takes and gives bytes, and tries to dial back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request, Response

from roadtrain.errors import PeerError
from roadtrain.orchestrate.requests import Bytes

BYTES_MAX = 8_000_000
"""Of one measurement."""
DIAL_S = 3.0
WORD_BYTES = 32


class DialBack(msgspec.Struct, frozen=True):
    """Dial the one who asks, at `port`; whoever answers there says `word` (ASCII) at once."""

    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    word: Annotated[str, msgspec.Meta(pattern=f"^[0-9a-f]{{{WORD_BYTES}}}$")]


_dial = msgspec.json.Decoder(DialBack)


def checkup_router(admit: Callable[[Request], object]) -> APIRouter:
    """Behind `admit`, which raises for who may not."""
    router = APIRouter()

    @router.get("/api/measure", response_class=Bytes)
    async def give(request: Request, size: Annotated[int, Query(ge=0, le=BYTES_MAX)] = 0) -> Response:
        """So many bytes, to measure the way from here."""
        admit(request)
        return Bytes(bytes(size))

    @router.put("/api/measure")
    async def take(request: Request) -> dict[str, int]:
        """Bytes that are counted and forgotten, to measure the way to here."""
        admit(request)
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > BYTES_MAX:
                raise PeerError(f"more than {BYTES_MAX} bytes to measure with")
        return {"bytes": size}

    @router.post("/api/dial")
    async def dial(request: Request) -> dict[str, Any]:
        """Dial whoever asks, at the address that this request came from. Nobody else can be dialled."""
        admit(request)
        try:
            asked = _dial.decode(await request.body())
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise PeerError(f"not understood: {error}") from None
        host = "" if request.client is None else request.client.host
        return {"host": host, "reached": await _answers(host, asked)}

    return router


async def _answers(host: str, asked: DialBack) -> bool:
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(DIAL_S):
            reader, writer = await asyncio.open_connection(host, asked.port)
            try:
                return await reader.readexactly(WORD_BYTES) == asked.word.encode()
            finally:
                writer.close()
    return False
