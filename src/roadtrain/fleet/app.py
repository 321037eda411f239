"""The coordinator on a socket: a FastAPI app, one WebSocket per worker, a few pages of JSON for people."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request, WebSocket, WebSocketDisconnect

from roadtrain.fleet.coordinator import Coordinator, Message, Outbox, Phase
from roadtrain.fleet.registry import Joined
from roadtrain.fleet.store import Store
from roadtrain.message import PeerId
from roadtrain.wire import Credentials

TICK_S = 0.2
"""How often the coordinator looks at its watch."""
MESSAGE_BYTES_MAX = 4_000_000
"""Longest message of a worker."""


class Desk:
    """The coordinator with its connections: feeds it, and carries out what it says. Lives on one asyncio loop."""

    def __init__(self, coordinator: Coordinator, store: Store, credentials: Credentials, briefing: Message) -> None:
        self.coordinator = coordinator
        self.store = store
        self.credentials = credentials
        self.briefing = briefing
        self.began = time.monotonic()
        self.loop: asyncio.AbstractEventLoop | None = None
        self._queues: dict[PeerId, asyncio.Queue[Message]] = {}

    def now(self) -> float:
        """Seconds since the coordinator began."""
        return time.monotonic() - self.began

    def carry_out(self, out: Outbox) -> None:
        """Write down the records, send the messages."""
        stamp = round(self.now(), 4)
        for record in out.events:
            self.store.event({**record, "time_s": stamp})
        for record in out.metrics:
            self.store.metric({**record, "time_s": stamp})
        for worker, message in out.messages:
            if worker in self._queues:
                self._queues[worker].put_nowait(message)

    async def watch(self) -> None:
        """Let time pass."""
        while True:
            await asyncio.sleep(TICK_S)
            self.carry_out(self.coordinator.tick(self.now()))

    # ------------------------------------------------------------------------------------------------- workers

    async def attend(self, socket: WebSocket) -> None:
        """One worker's connection, from its introduction to its end."""
        await socket.send_json(self.briefing)
        worker = await self._introduce(socket)
        if worker is None:
            return
        queue = self._queues[worker.name]
        sender = asyncio.create_task(self._send(socket, queue))
        try:
            while True:
                message = await self._read(socket)
                self.carry_out(self.coordinator.receive(worker, message, self.now()))
        except (WebSocketDisconnect, RuntimeError):
            worker.connected = False
            worker.heard_s = self.now()
        finally:
            sender.cancel()

    async def _introduce(self, socket: WebSocket) -> Joined | None:
        """The first message: who this is, or why it cannot even begin."""
        message = await self._read(socket)
        if "failed" in message:
            out = Outbox()
            self.coordinator.failed(str(message.get("name", "a worker")), message["failed"], out)
            self.carry_out(out)
            return None
        if "again" in message:
            return self._again(message["again"])
        name = f"w{message['join']['slot']}"
        self._queues[name] = asyncio.Queue()
        worker, out = self.coordinator.join(message["join"], self.now())
        if worker is not None:
            await socket.send_json({"joined": {"worker": worker.name, "incarnation": worker.incarnation}})
        self.carry_out(out)
        return worker

    def _again(self, claim: Message) -> Joined | None:
        """A worker whose connection broke is back."""
        worker = self.coordinator.registry.workers.get(claim["worker"])
        if worker is None or worker.incarnation != claim["incarnation"]:
            return None
        worker.connected, worker.heard_s = True, self.now()
        return worker

    async def _read(self, socket: WebSocket) -> Message:
        text = await socket.receive_text()
        if len(text) > MESSAGE_BYTES_MAX:
            raise WebSocketDisconnect(1009, "message too long")
        message = json.loads(text)
        if not isinstance(message, dict) or not message:
            raise WebSocketDisconnect(1003, "not a message")
        return message

    async def _send(self, socket: WebSocket, queue: asyncio.Queue[Message]) -> None:
        while True:
            await socket.send_json(await queue.get())

    # -------------------------------------------------------------------------------------------------- people

    def state(self) -> dict[str, Any]:
        """The run at a glance."""
        registry = self.coordinator.registry
        alive = {worker.name for worker in registry.alive()}
        return {
            "phase": self.coordinator.phase.value,
            "view": registry.view.number if registry.view else 0,
            "workers": [
                {"id": w.name, "slot": w.slot, "host": w.host, "step": w.step, "alive": w.name in alive}
                for w in sorted(registry.workers.values(), key=lambda worker: worker.slot)
            ],
            "lost": registry.lost,
            "time_s": round(self.now(), 3),
        }


def make_app(desk: Desk) -> FastAPI:
    """The coordinator's HTTP and WebSocket interface. Everything but the health check wants the run's token."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        desk.loop = asyncio.get_running_loop()
        watcher = asyncio.create_task(desk.watch())
        yield
        watcher.cancel()

    app = FastAPI(title="roadtrain coordinator", lifespan=lifespan)

    def authorised(request: Request) -> None:
        if not desk.credentials.accepts(request.headers.get("authorization", "")):
            raise HTTPException(401, "wrong or missing token")

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/api/run", dependencies=[Depends(authorised)])
    async def run() -> dict[str, Any]:
        return desk.state()

    @app.get("/api/events", dependencies=[Depends(authorised)])
    async def events() -> list[dict[str, Any]]:
        return desk.store.events()

    @app.get("/api/metrics", dependencies=[Depends(authorised)])
    async def metrics(after: Annotated[int, Query(ge=0)] = 0) -> list[dict[str, Any]]:
        return desk.store.metrics(after)

    @app.websocket("/api/worker")
    async def worker(socket: WebSocket) -> None:
        if not desk.credentials.accepts(socket.headers.get("authorization", "")):
            await socket.close(4401, "wrong or missing token")
            return
        if desk.coordinator.phase is Phase.OVER:
            await socket.close(4404, "the run is over")
            return
        await socket.accept()
        try:
            await desk.attend(socket)
        except WebSocketDisconnect:
            return
        except (ValueError, KeyError, TypeError):
            await socket.close(1003, "not a message")

    return app
