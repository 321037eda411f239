"""What a coordinator does that has taken another's place, until it decides: it looks who of the members is dead, and whether
somebody else decides already."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
from collections.abc import Collection

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from roadtrain.errors import PeerError
from roadtrain.fleet.sessions import Sessions
from roadtrain.fleet.succession import CONNECT_S, TRUST_S, is_refused
from roadtrain.membership.coordinator import Coordinator
from roadtrain.membership.frames import PROTOCOL, Hello, Welcome, encode, from_coordinator
from roadtrain.membership.phase import Phase
from roadtrain.version import VERSION
from roadtrain.wire.credentials import NAME, Credentials

LOOK_S = 0.3
"""Between two rounds."""


async def ask(sessions: Sessions, others: Collection[str], before: Collection[str]) -> bool:
    """Until `sessions` decide, or another coordinator does: whether it is these. One of `others` that asks too goes first if it
    is one of `before`."""
    burying = asyncio.create_task(_bury(sessions.coordinator))
    try:
        while sessions.coordinator.phase is Phase.RECALLING:
            leads = await asyncio.gather(*(_leads(url, sessions.credentials) for url in others))
            for url, answer in zip(others, leads, strict=True):
                if answer or (answer is False and url in before):
                    return sessions.coordinator.phase is not Phase.RECALLING
            await asyncio.sleep(LOOK_S)
        return True
    finally:
        burying.cancel()


async def _bury(coordinator: Coordinator) -> None:
    """Look which of the members that have not been heard are dead; later they may just have ended."""
    loop = asyncio.get_running_loop()
    end = loop.time() + TRUST_S
    while (recall := coordinator.recall) is not None and loop.time() < end:
        unheard = recall.unheard()
        gone = await asyncio.gather(*(is_refused(address) for address in unheard.values()))
        for name, is_gone in zip(unheard, gone, strict=True):
            if is_gone:
                recall.refused(name)
        await asyncio.sleep(LOOK_S)


async def _leads(url: str, credentials: Credentials) -> bool | None:
    """Whether the coordinator at `url` decides; None where there is none, or it does not answer."""
    hello = Hello(PROTOCOL, VERSION, f"looks-{secrets.token_hex(8)}", 0)
    errors = (OSError, WebSocketException, PeerError, ssl.SSLError)
    with contextlib.suppress(*errors):
        async with (
            asyncio.timeout(CONNECT_S),
            connect(
                url + "/api/worker",
                additional_headers=dict(credentials.metadata),
                ssl=credentials.client_context(),
                server_hostname=NAME if credentials.secure else None,
                proxy=None,
                compression=None,
                close_timeout=0.2,
            ) as connection,
        ):
            await connection.send(encode(hello))
            raw = await connection.recv()
            frame = from_coordinator(raw) if isinstance(raw, bytes) else None
            return frame.leads if isinstance(frame, Welcome) else None
    return None
