"""The page and what it asks for, as a router of a coordinator's app. All but the page and the health check is behind the gate."""

from __future__ import annotations

import asyncio
import contextlib
import mimetypes
import time
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import HTTPConnection

from roadtrain.dashboard.answers import Answers
from roadtrain.dashboard.broadcast import bundled
from roadtrain.dashboard.prometheus import exposition
from roadtrain.dashboard.watched import Gate, Rows, Watched, glance
from roadtrain.errors import RoadtrainError
from roadtrain.version import VERSION

PAGE = Path(__file__).parent / "page"
PROTOCOL = "roadtrain"
"""Of the WebSocket. A browser, which can send no header, offers `roadtrain` and `bearer.TICKET`."""
RECENT_MAX = 24
"""Workers whose last lines are told at once."""
CHECK_S = 5.0
"""How often whoever listens is asked whether it still may."""
PACE_S = 0.25
"""What follows on something that was told waits for so long, so that much is told at once."""
POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
_WHY: dict[str, Any] = {"content": {"application/json": {"schema": {"type": "object"}}}}
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "Not understood: `error` says why, `hint` what to do.", **_WHY},
    401: {"description": "Nothing was shown that lets in.", **_WHY},
    403: {"description": "What was shown does not serve to this: `error` says why, `hint` what to do.", **_WHY},
    404: {"description": "There is no such thing.", **_WHY},
    409: {"description": "Not as things stand: `error` says why, `hint` what to do.", **_WHY},
}
"""How a coordinator refuses, as its description says it."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def bearer(connection: HTTPConnection) -> str:
    """What a request shows to be let in, or a browser's WebSocket in its place: "Bearer ..."; "" for nothing."""
    said = connection.headers.get("authorization", "")
    if said or connection.scope["type"] != "websocket":
        return said
    offered = [each.strip() for each in connection.headers.get("sec-websocket-protocol", "").split(",")]
    return next((f"Bearer {each.removeprefix('bearer.')}" for each in offered if each.startswith("bearer.")), "")


def watching_router(watched: Watched, gate: Gate) -> APIRouter:
    """What shows `watched` to those that `gate` lets look."""
    router = APIRouter()
    answers = Answers()

    @router.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the coordinator answers, which roadtrain it is, and its clock (seconds since 1970). Needs no ticket."""
        return {"status": "ok", "version": VERSION, "time_s": time.time()}

    @router.get("/api/status", response_model=dict[str, Any])
    async def status(request: Request) -> Response:
        """Machines, workers, runs, regions and links at a glance."""
        gate.look(request)
        return answers.give(request, "status", lambda: glance(watched))

    @router.get("/workers", response_model=Rows)
    async def workers(request: Request, run: str | None = None) -> Response:
        """Workers of runs that go on, or of one of them: state, step, loss, totals in seconds and bytes."""
        gate.look(request)
        return answers.give(request, f"workers {run}", lambda: watched.workers(run))

    @router.get("/regions", response_model=Rows)
    async def regions(request: Request, machines: bool = False) -> Response:
        """Which workers, and which machines, are near each other; or the latter alone."""
        gate.look(request)
        if machines:
            return answers.give(request, "regions of machines", watched.machine_regions)
        return answers.give(request, "regions", lambda: [*watched.regions(), *watched.machine_regions()])

    @router.get("/runs", response_model=Rows)
    async def runs(request: Request) -> Response:
        """Runs, the oldest first."""
        gate.look(request)
        return answers.give(request, "runs", watched.runs)

    @router.get("/machines", response_model=Rows)
    async def machines(request: Request) -> Response:
        """Machines that are here, or were a moment ago."""
        gate.look(request)
        return answers.give(request, "machines", watched.machines)

    @router.get("/links", response_model=Rows)
    async def links(request: Request, most: Annotated[int | None, Query(ge=0, le=10_000)] = None) -> Response:
        """The ways between machines; where none are known, between workers. `most`: of so many of them, or of each run."""
        gate.look(request)
        return answers.give(request, f"links {most}", lambda: watched.machine_links(most) or watched.links(most))

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        """Figures for Prometheus."""
        gate.look(request)
        return Response(exposition(watched), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    @router.get("/api/runs/{run}/series", response_model=dict[str, Any])
    async def series(request: Request, run: str) -> Response:
        """The course of a run in at most 600 points, by column; numbers are totals over all workers."""
        gate.look(request)
        return answers.give(request, f"series {run}", (await asyncio.to_thread(watched.series, run)).columns)

    @router.get("/api/runs/{run}/recent", response_model=dict[str, Any])
    async def recent(
        request: Request, run: str, worker: Annotated[list[str] | None, Query(max_length=RECENT_MAX)] = None
    ) -> Response:
        """The last lines of metrics of some workers, by worker and column; of the first ones, where none is named."""
        gate.look(request)
        lanes = (await asyncio.to_thread(watched.series, run)).lanes
        names = worker or sorted(lanes, key=lambda name: (len(name), name))[:RECENT_MAX]
        shown = [name for name in names if name in lanes]
        return answers.give(request, f"recent {run} {shown}", lambda: {name: lanes[name].columns() for name in shown})

    @router.get("/api/runs/{run}/events", response_model=Rows)
    async def events(request: Request, run: str, after: Annotated[int, Query(ge=0, lt=2**63)] = 0) -> Response:
        """Events of a run after the one with that id, oldest first."""
        gate.look(request)
        return answers.give(request, f"events {run} {after}", lambda: watched.events(run, after))

    @router.websocket("/ws/events")
    async def listen(socket: WebSocket, together: bool = False) -> None:
        try:
            gate.look(socket)
        except (RoadtrainError, HTTPException):
            await socket.close(1008, "no ticket that lets look")
            return
        offered = socket.headers.get("sec-websocket-protocol")
        await socket.accept(PROTOCOL if offered else None)
        speaking = asyncio.create_task(_speak(watched, gate, socket, together=together))
        try:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                while True:
                    await socket.receive()
        finally:
            speaking.cancel()

    @router.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> JSONResponse:
        gate.look(request)
        return JSONResponse(request.app.openapi())

    @router.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers=HEADERS)

    @router.get("/page/{name:path}", include_in_schema=False)
    async def part(name: str) -> Response:
        path = None if "\0" in name else (PAGE / name).resolve()
        if path is None or not path.is_relative_to(PAGE.resolve()) or not path.is_file():
            raise HTTPException(404, "no such file")
        return FileResponse(path, media_type=mimetypes.guess_type(path.name)[0], headers=HEADERS)

    return router


async def _speak(watched: Watched, gate: Gate, socket: WebSocket, *, together: bool) -> None:
    """Tell a listener what happens, as long as it may listen and its connection stands; `together`: several in one text."""
    look_s = time.monotonic() + CHECK_S
    with watched.broadcast.listening() as listener, contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while True:
            texts: list[str] = []
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_S):
                    texts = await listener.hear()
            for text in [bundled(texts)] if together and len(texts) > 1 else texts:
                await socket.send_text(text)
            await asyncio.sleep(PACE_S)
            if time.monotonic() < look_s:
                continue
            look_s = time.monotonic() + CHECK_S
            try:
                gate.look(socket)
            except (RoadtrainError, HTTPException):
                await socket.close(1008, "the ticket lets look no longer")
                return
