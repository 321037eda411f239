"""Where a machine comes that has six digits and no ticket."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
from fastapi import APIRouter, Request, Response

from roadtrain.orchestrate.hub import Hub
from roadtrain.orchestrate.lan.messages import Half, Proof, Welcome, Wrong
from roadtrain.orchestrate.lan.pairing import Closed, Doorkeeper, WrongDigits
from roadtrain.orchestrate.requests import body_of, decoded
from roadtrain.orchestrate.ticket import Role, draw

TICKET_S = 600.0
"""So long the ticket lets in that is given for the digits, once."""
HALF, PROOF = "/api/pairing", "/api/pairing/proof"
_half = msgspec.json.Decoder(Half)
_proof = msgspec.json.Decoder(Proof)


def pairing_router(hub: Hub, digits: str, pin: bytes, addresses: Sequence[str]) -> APIRouter:
    """The paths at which `digits` change into a worker's ticket of the coordinator with this key, at `addresses`."""
    router = APIRouter()
    doorkeeper = Doorkeeper(digits, pin)

    @router.post(HALF)
    async def begin(request: Request) -> Response:
        asked = decoded(_half, await body_of(request))
        conversation, half = doorkeeper.begin(asked.half, time.monotonic())
        return _answer(Half(half, conversation))

    @router.post(PROOF)
    async def finish(request: Request) -> Response:
        asked = decoded(_proof, await body_of(request))
        host = "" if request.client is None else request.client.host
        try:
            key = doorkeeper.finish(asked.conversation, asked.proof, time.monotonic())
        except (WrongDigits, Closed) as error:
            hub.log.seldom("refused", (host, "digits"), host=host, path=PROOF, why=error.message)
            if isinstance(error, Closed):
                raise
            return _answer(Wrong(error.left))
        made = draw(Role.WORKER, pin, addresses)
        hub.register.add_ticket(made, expires_s=TICKET_S, uses=1)
        hub.log.say("digits", host=host)
        text = made.text()
        return _answer(Welcome(text, key.proof("coordinator", text.encode())))

    return router


def _answer(said: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(said), media_type="application/json")
