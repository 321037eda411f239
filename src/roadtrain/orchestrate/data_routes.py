"""What those ask a fleet's coordinator who feed data, or take them, that are known by a name there."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request, Response, WebSocket

from roadtrain.fleet.close_codes import UNAUTHORISED
from roadtrain.fleet.data_desk import attend_caller
from roadtrain.fleet.relay import relay_router
from roadtrain.membership.sharing import check_data_name
from roadtrain.orchestrate.data_order import PROTOCOL, DataOrder, DataRequest
from roadtrain.orchestrate.gate import Gate
from roadtrain.orchestrate.hub import Hub
from roadtrain.orchestrate.requests import body_of, check_version, decoded
from roadtrain.orchestrate.ticket import Role

_request = msgspec.json.Decoder(DataRequest)


def data_router(hub: Hub, gate: Gate) -> APIRouter:
    """The paths below /data, and the one where a ticket is changed for the secret that they want."""
    router = APIRouter()

    @router.post("/api/data/{name}")
    async def share(request: Request, name: str) -> Response:
        gate.person(request, Role.FEEDER, Role.WORKER, Role.DRIVER, what="feed or take data")
        asked = decoded(_request, await body_of(request))
        check_version(asked, PROTOCOL)
        check_data_name(name)
        if asked.feeds:
            gate.person(request, Role.FEEDER, Role.DRIVER, what="feed data", use=True)
        else:
            gate.person(request, Role.WORKER, Role.DRIVER, what="take data that others feed")
        hub.data.of(name)
        answer = DataOrder(hub.data.credentials(name).token)
        return Response(msgspec.json.encode(answer), media_type="application/json")

    @router.websocket("/data/{name}/api/desk")
    async def desk(socket: WebSocket, name: str) -> None:
        if not hub.data.credentials(name).accepts(socket.headers.get("authorization", "")):
            await socket.accept()
            await socket.close(UNAUTHORISED, "wrong or missing token")
            return
        await attend_caller(hub.data.of(name), socket, hub.data.from_s)

    router.include_router(relay_router(gate.shared), prefix="/data/{name}")
    return router
