"""Where those connect that feed or take data by name: each says who it is, and is told who is at the other side."""

from __future__ import annotations

import asyncio
import contextlib
import time

from fastapi import WebSocket, WebSocketDisconnect

from roadtrain.errors import PeerError, UsageError
from roadtrain.fleet.close_codes import DIFFERS, MALFORMED, WRONG_VERSION
from roadtrain.fleet.sessions import HELLO_S, TICK_S
from roadtrain.membership.sharing import PROTOCOL, Caller, SharedData, Told, caller_of, encode
from roadtrain.version import VERSION


async def attend_caller(data: SharedData, socket: WebSocket, from_s: float) -> None:
    """See the connection of one that was let in through. It is told nothing before `from_s`, on the clock of time.monotonic:
    those who knew an earlier coordinator have come again then, and nobody is told that they are gone."""
    await socket.accept()
    try:
        async with asyncio.timeout(HELLO_S):
            said = caller_of(await socket.receive_bytes())
        if said.protocol != PROTOCOL:
            reason = f"the coordinator runs roadtrain {VERSION}, this process {said.version}"
            await socket.close(WRONG_VERSION, reason)
            return
        data.tick(time.monotonic())  # nobody may have been there to do so
        connection = data.come(said)
    except (WebSocketDisconnect, TimeoutError, KeyError):
        return
    except UsageError as error:
        await socket.close(DIFFERS, error.message[:120])
        return
    except PeerError as error:
        await socket.close(MALFORMED, error.message[:100])
        return
    telling = asyncio.create_task(_tell(data, socket, said, from_s))
    try:
        await socket.receive_bytes()  # all that it says after its hello is that it goes
        data.leave(said.name)
    except (WebSocketDisconnect, KeyError, RuntimeError):
        data.disconnected(said.name, connection, time.monotonic())
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


async def _tell(data: SharedData, socket: WebSocket, said: Caller, from_s: float) -> None:
    last: Told | None = None
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await asyncio.sleep(max(0.0, from_s - time.monotonic()))
        while True:
            data.tick(time.monotonic())
            told = data.told(said)
            if told != last:
                await socket.send_bytes(encode(told))
                last = told
            await asyncio.sleep(TICK_S)
