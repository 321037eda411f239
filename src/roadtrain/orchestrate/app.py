"""The coordinator of a fleet on a socket: what machines, drivers and people ask, each with the ticket that serves to it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import msgspec
from fastapi import FastAPI, HTTPException, Query, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, JSONResponse

from roadtrain.dashboard.origin import OwnOriginOnly
from roadtrain.dashboard.routes import REFUSALS, watching_router
from roadtrain.errors import PeerError, RoadtrainError, UsageError
from roadtrain.fleet.app import attend_worker
from roadtrain.fleet.close_codes import MALFORMED, OVER, UNAUTHORISED
from roadtrain.fleet.feeder_desk import attend_feeder
from roadtrain.fleet.relay import relay_router
from roadtrain.fleet.sessions import Sessions
from roadtrain.orchestrate.archive import receive
from roadtrain.orchestrate.checkup import checkup_router
from roadtrain.orchestrate.data_routes import data_router
from roadtrain.orchestrate.feed_order import PROTOCOL as FEED_PROTOCOL
from roadtrain.orchestrate.feed_order import FeedRequest
from roadtrain.orchestrate.fleet_state import FleetState
from roadtrain.orchestrate.gate import Gate
from roadtrain.orchestrate.hub import Hub, Presence
from roadtrain.orchestrate.machine import PROTOCOL, JoinRequest, encode, report_of
from roadtrain.orchestrate.register import NotAdmitted
from roadtrain.orchestrate.requests import Bytes, body_of, check_version, decoded
from roadtrain.orchestrate.run_files import RunFiles
from roadtrain.orchestrate.submission import Door, Submission
from roadtrain.orchestrate.ticket import Role, draw
from roadtrain.orchestrate.token_request import TokenRequest

REPORT_BYTES_MAX = 1_000_000
_join = msgspec.json.Decoder(JoinRequest)
_submission = msgspec.json.Decoder(Submission)
_token = msgspec.json.Decoder(TokenRequest)
_feed = msgspec.json.Decoder(FeedRequest)


def make_app(hub: Hub, pin: bytes, addresses: tuple[str, ...]) -> FastAPI:
    """The HTTP and WebSocket interface. Nothing is said without a ticket, but what the coordinator's certificate says."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        hub.begin()
        watching = asyncio.create_task(hub.watch())
        yield
        watching.cancel()

    # Without the pages that FastAPI makes of itself: they would want no ticket.
    app = FastAPI(
        title="roadtrain", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, responses=REFUSALS
    )
    app.add_middleware(OwnOriginOnly)
    gate = Gate(hub)
    app.include_router(watching_router(FleetState(hub), gate))
    app.include_router(checkup_router(lambda request: gate.person(request, *Role, what="measure")))
    files = RunFiles(hub.folder)

    @app.exception_handler(RoadtrainError)
    async def refused(request: Request, error: RoadtrainError) -> JSONResponse:
        if isinstance(error, NotAdmitted):
            host = "" if request.client is None else request.client.host
            hub.log.seldom("refused", (host,), host=host, path=request.url.path[:100], why=error.message)
        status = 403 if isinstance(error, NotAdmitted) else 409 if isinstance(error, UsageError) else 400
        return JSONResponse({"error": error.message, "hint": error.hint}, status)

    # ---------------------------------------------------------------------------------------------------- tokens

    @app.post("/api/tokens")
    async def create(request: Request) -> dict[str, str]:
        gate.person(request, what="make tickets")
        asked = decoded(_token, await body_of(request))
        made = draw(Role(asked.role), pin, addresses)
        hub.register.add_ticket(made, expires_s=asked.expires_s, uses=asked.uses)
        return {"id": made.id, "ticket": made.text()}

    @app.post("/api/tokens/{token}/revoke")
    async def revoke(request: Request, token: str) -> dict[str, str]:
        gate.person(request, what="revoke tickets")
        if not hub.register.revoke(token):
            raise UsageError(f"there is no ticket {token}", "token create has printed its id")
        for name in hub.register.of_ticket(token):
            if name in hub.presences:
                hub.presences[name].wake.set()
        return {"id": token}

    # -------------------------------------------------------------------------------------------------- machines

    @app.post("/api/machines")
    async def join(request: Request) -> Response:
        gate.person(request, Role.WORKER, what="join a machine")
        asked = decoded(_join, await body_of(request))
        check_version(asked, PROTOCOL)
        ticket = gate.person(request, Role.WORKER, what="join a machine", use=True)
        return Response(msgspec.json.encode(hub.take(asked, ticket)), media_type="application/json")

    @app.post("/api/machines/{machine}/leave")
    async def let_go(request: Request, machine: str) -> dict[str, str]:
        """Have a machine leave, as SIGTERM there does: others take over what it holds."""
        gate.person(request, Role.DRIVER, what="have a machine leave")
        hub.let_go(machine)
        return {"machine": machine}

    @app.websocket("/api/machine")
    async def machine(socket: WebSocket) -> None:
        try:
            known = gate.machine(socket.headers.get("authorization", ""))
        except NotAdmitted as error:
            await socket.accept()
            await socket.close(UNAUTHORISED, error.line()[:100])
            return
        await socket.accept()
        presence, connection = hub.connect(known)
        speaking = asyncio.create_task(_speak(hub, gate, presence, connection, socket))
        try:
            while True:
                raw = await socket.receive_bytes()
                if len(raw) > REPORT_BYTES_MAX:
                    raise PeerError("a report that is too long")
                report = report_of(raw)
                hub.hear(presence, report)
                if report.left:
                    await socket.close(OVER, "goodbye")
                    return
        except (WebSocketDisconnect, RuntimeError, KeyError):
            return
        except PeerError as error:
            await socket.close(MALFORMED, error.message[:100])
        finally:
            speaking.cancel()
            hub.disconnect(presence, connection)

    @app.websocket("/runs/{run}/{attempt}/api/worker")
    async def worker(socket: WebSocket, run: str, attempt: int) -> None:
        sessions = await _sessions(hub, run, attempt, socket)
        if sessions is not None:
            await attend_worker(sessions, socket)

    @app.websocket("/runs/{run}/{attempt}/api/feeder")
    async def feeder(socket: WebSocket, run: str, attempt: int) -> None:
        sessions = await _sessions(hub, run, attempt, socket)
        if sessions is not None:
            await attend_feeder(sessions, socket)

    @app.post("/api/feeds")
    async def begin_feeding(request: Request) -> dict[str, str]:
        gate.person(request, Role.FEEDER, Role.DRIVER, what="feed runs")
        asked = decoded(_feed, await body_of(request))
        check_version(asked, FEED_PROTOCOL)
        gate.person(request, Role.FEEDER, Role.DRIVER, what="feed runs", use=True)
        return {"feeder": asked.host}

    @app.get("/api/feeds")
    async def feeds(request: Request, key: str = "") -> Response:
        gate.person(request, Role.FEEDER, Role.DRIVER, what="feed runs")
        return Response(msgspec.json.encode(hub.feeds(key)), media_type="application/json")

    app.include_router(relay_router(gate.run), prefix="/runs/{name}/{attempt}")
    app.include_router(data_router(hub, gate))

    # ------------------------------------------------------------------------------------------------------ runs

    @app.post("/api/runs")
    async def submit(request: Request) -> dict[str, str]:
        gate.person(request, Role.DRIVER, what="start a run")
        asked = decoded(_submission, await body_of(request))
        hub.refuse_if_hopeless(asked)
        gate.person(request, Role.DRIVER, what="start a run", use=True)
        return {"run": hub.submit(asked)}

    @app.get("/api/runs/{run}")
    async def look(request: Request, run: str) -> Response:
        gate.person(request, Role.VIEWER, Role.DRIVER, what="look")
        hosted = hub.run(run)
        said = {"status": hosted.status, "ended": hosted.ended, "note": hosted.note, "snapshot": hosted.snapshot()}
        return Response(msgspec.json.encode(said), media_type="application/json")

    @app.get("/api/runs/{run}/door")
    async def door(request: Request, run: str) -> Response:
        gate.person(request, Role.DRIVER, what="feed a run")
        hosted = hub.run(run)
        if hosted.status != "running":
            raise UsageError(f"{run} is {hosted.status}", "ask again when it runs")
        return Response(msgspec.json.encode(Door(hosted.attempt, hosted.token)), media_type="application/json")

    @app.post("/api/runs/{run}/stop")
    async def stop(request: Request, run: str, at_once: bool = False) -> dict[str, str]:
        """Have a run save and end, as Ctrl-C in its driver does; `at_once`: without saving."""
        gate.person(request, Role.DRIVER, what="stop a run")
        hub.run(run).stop(at_once=at_once)
        return {"run": run}

    @app.get("/api/runs/{run}/files")
    async def listing(request: Request, run: str) -> list[str]:
        gate.anybody(request)
        return files.names(hub.run(run).id)

    @app.get("/api/runs/{run}/files/{name:path}", response_class=Bytes)
    async def fetch(request: Request, run: str, name: str, begin: Annotated[int, Query(ge=0)] = 0) -> Response:
        gate.anybody(request)
        return _file(files.path(hub.run(run).id, name), begin)

    @app.put("/api/runs/{run}/files/{name:path}")
    async def bring(request: Request, run: str, name: str) -> dict[str, str]:
        gate.brings(request, hub.run(run).hosts)
        await files.receive(run, name, request.stream())
        hub.run(run).brought(name)
        return {"name": name}

    @app.head("/api/archives/{digest}")
    async def has(request: Request, digest: str) -> Response:
        gate.person(request, Role.DRIVER, what="bring code")
        return Response(status_code=200 if _archive(hub, digest).exists() else 404)

    @app.put("/api/archives/{digest}")
    async def keep(request: Request, digest: str) -> dict[str, str]:
        gate.person(request, Role.DRIVER, what="bring code")
        await receive(_archive(hub, digest), digest, request.stream())
        return {"digest": digest}

    @app.get("/api/archives/{digest}", response_class=Bytes)
    async def archive(request: Request, digest: str) -> Response:
        gate.machine(request.headers.get("authorization", ""))
        return _file(_archive(hub, digest), 0)

    return app


def _archive(hub: Hub, digest: str) -> Path:
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise HTTPException(404, "no such archive")
    return hub.archives / digest


def _file(path: Path, begin: int) -> Response:
    if not path.is_file():
        raise HTTPException(404, "no such file")
    if not begin:
        return FileResponse(path, media_type=Bytes.media_type)
    with path.open("rb") as file:
        file.seek(begin)
        return Bytes(file.read())


async def _sessions(hub: Hub, run: str, attempt: int, socket: WebSocket) -> Sessions | None:
    """Of a run that goes on, in this attempt at it; else the connection is closed."""
    hosted = hub.runs.get(run)
    if hosted is None or hosted.control is None or hosted.attempt != attempt or hosted.status != "running":
        await socket.accept()
        await socket.close(OVER, "the run is over")
        return None
    return hosted.control.sessions


async def _speak(hub: Hub, gate: Gate, presence: Presence, connection: int, socket: WebSocket) -> None:
    """Tell a machine what is to run there, whenever that has changed."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while presence.connection == connection:
            presence.wake.clear()
            orders = hub.orders_for(presence)
            if orders != presence.told:
                presence.told = orders
                await socket.send_bytes(encode(orders))
            await presence.wake.wait()
            try:
                gate.machine(socket.headers.get("authorization", ""))
            except NotAdmitted as error:
                await socket.close(UNAUTHORISED, error.line()[:100])
                return
