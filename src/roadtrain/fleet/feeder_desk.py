"""Where feeders connect to a run's coordinator: each says who it is, and is told all that it needs whenever that changes."""

from __future__ import annotations

import asyncio
import contextlib

from fastapi import WebSocket, WebSocketDisconnect

from roadtrain.errors import PeerError
from roadtrain.fleet.close_codes import MALFORMED, OVER, UNAUTHORISED, WRONG_VERSION
from roadtrain.fleet.sessions import HELLO_S, TICK_S, Sessions
from roadtrain.membership.effects import Effects
from roadtrain.membership.feeding import PROTOCOL, FeederRecord, FeederTold, consumer_of, encode, hello_of
from roadtrain.membership.phase import Phase
from roadtrain.version import VERSION


async def attend_feeder(sessions: Sessions, socket: WebSocket) -> None:
    """See a feeder's connection through, if it has the run's token."""
    coordinator = sessions.coordinator
    if not sessions.credentials.accepts(socket.headers.get("authorization", "")):
        coordinator.warnings.append("a feeder was refused: it has another token")
        await socket.close(UNAUTHORISED, "wrong or missing token")
        return
    await socket.accept()
    try:
        async with asyncio.timeout(HELLO_S):
            said = hello_of(await socket.receive_bytes())
    except (WebSocketDisconnect, TimeoutError, KeyError):
        return
    except PeerError as error:
        await socket.close(MALFORMED, error.message[:100])
        return
    if said.protocol != PROTOCOL:
        reason = f"the coordinator runs roadtrain {VERSION}, this feeder {said.version}"
        await socket.close(WRONG_VERSION, reason)
        return
    out = Effects()
    feeder = coordinator.feeding.come(said, out)
    sessions.control.carry_out(out)
    telling = asyncio.create_task(_tell(sessions, socket, feeder))
    left = Effects()
    try:
        await socket.receive_bytes()  # all that it says after its hello is that it goes
        coordinator.feeding.leave(feeder, left)
    except (WebSocketDisconnect, KeyError, RuntimeError):
        coordinator.feeding.disconnected(feeder, sessions.now())
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
    sessions.control.carry_out(left)


async def _tell(sessions: Sessions, socket: WebSocket, feeder: FeederRecord) -> None:
    """What there is to be told, whenever it has changed, until the run is over."""
    last: FeederTold | None = None
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while True:
            told = _told(sessions, feeder)
            if told != last:
                await socket.send_bytes(encode(told))
                last = told
            if told.over:
                await socket.close(OVER, "the run is over")
                return
            await asyncio.sleep(TICK_S)


def _told(sessions: Sessions, feeder: FeederRecord) -> FeederTold:
    coordinator = sessions.coordinator
    fed = coordinator.feeding.fed(coordinator.registry)
    workers = {consumer_of(name): place for name, place in fed.items()}
    heirs = tuple(w.said.heir for w in coordinator.registry.alive() if w.said.heir)
    over = coordinator.phase is Phase.OVER
    return FeederTold(feeder.name, feeder.incarnation, sessions.control.spec, workers, heirs, over)
