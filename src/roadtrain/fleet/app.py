"""The coordinator of one run on a socket: a FastAPI app, one WebSocket per worker, and what people see of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse

from roadtrain.dashboard.origin import OwnOriginOnly
from roadtrain.dashboard.routes import REFUSALS, watching_router
from roadtrain.errors import PeerError, UsageError
from roadtrain.fleet.close_codes import MALFORMED, OVER, UNAUTHORISED
from roadtrain.fleet.feeder_desk import attend_feeder
from roadtrain.fleet.relay import relay_router
from roadtrain.fleet.sessions import HangUp, Sessions
from roadtrain.fleet.watched_run import RunGate, WatchedRun
from roadtrain.membership.phase import Phase

Beside = Callable[[], Coroutine[None, None, None]]


def make_app(sessions: Sessions, beside: Beside | None = None) -> FastAPI:
    """The coordinator's HTTP and WebSocket interface. Everything but the health check wants the run's token. `beside`: runs
    as long."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sessions.loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(each()) for each in (sessions.watch, beside) if each is not None]
        yield
        for task in tasks:
            task.cancel()

    # Without the pages that FastAPI makes of itself: they would want no token.
    app = FastAPI(
        title="roadtrain", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, responses=REFUSALS
    )
    app.add_middleware(OwnOriginOnly)
    app.include_router(watching_router(WatchedRun(sessions), RunGate(sessions.credentials)))

    @app.exception_handler(UsageError)
    async def refused(_: Request, error: UsageError) -> JSONResponse:
        return JSONResponse({"error": error.message, "hint": error.hint}, 404)

    @app.post("/api/runs/{run}/stop")
    async def stop(request: Request, run: str) -> dict[str, str]:
        """Have a run save and end, as Ctrl-C does."""
        RunGate(sessions.credentials).look(request)
        WatchedRun(sessions).series(run)
        sessions.decide(lambda: sessions.coordinator.interrupt(sessions.now()))
        return {"run": run}

    @app.websocket("/api/worker")
    async def worker(socket: WebSocket) -> None:
        await attend_worker(sessions, socket)

    @app.websocket("/api/feeder")
    async def feeder(socket: WebSocket) -> None:
        await attend_feeder(sessions, socket)

    def admits(authorization: str) -> str | None:
        return "" if sessions.credentials.accepts(authorization) else None

    app.include_router(relay_router(admits))
    return app


async def attend_worker(sessions: Sessions, socket: WebSocket) -> None:
    """See a worker's connection through, if it has the run's token."""
    if not sessions.credentials.accepts(socket.headers.get("authorization", "")):
        sessions.coordinator.warnings.append("a worker was refused: it has another token")
        await socket.close(UNAUTHORISED, "wrong or missing token")
        return
    await socket.accept()
    if sessions.coordinator.phase is Phase.OVER:
        await socket.close(OVER, "the run is over")
        return
    try:
        await sessions.attend(socket)
    except (WebSocketDisconnect, TimeoutError):
        return
    except HangUp as error:
        await socket.close(error.code, error.reason)
    except PeerError as error:
        await socket.close(MALFORMED, error.message[:100])
