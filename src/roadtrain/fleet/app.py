"""The coordinator on a socket: a FastAPI app, one WebSocket per worker, a few pages of JSON for people."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request, WebSocket, WebSocketDisconnect

from roadtrain.fleet import letter
from roadtrain.fleet.coordinator import Coordinator
from roadtrain.fleet.letter import Message
from roadtrain.fleet.outbox import Outbox
from roadtrain.fleet.phase import Phase
from roadtrain.fleet.registry import Joined, Refused
from roadtrain.fleet.store import Store
from roadtrain.message import PeerId
from roadtrain.wire import Credentials

TICK_S = 0.5
"""How often the coordinator looks at its watch."""
MESSAGE_BYTES_MAX = 4_000_000
"""Longest message of a worker."""
MALFORMED, TOO_LONG, UNAUTHORISED, OVER, NO_PLACE = 1003, 1009, 4401, 4404, 4409
"""Codes with which a WebSocket is closed."""


class HangUp(Exception):
    """This connection, and no other, is to be closed with `code`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Desk:
    """The coordinator with its connections: feeds it, and carries out what it says. Lives on one asyncio loop."""

    def __init__(self, coordinator: Coordinator, store: Store, credentials: Credentials, briefing: Message) -> None:
        self.coordinator = coordinator
        self.store = store
        self.credentials = credentials
        self.briefing = briefing
        self.began = time.monotonic()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.over = threading.Event()
        self._queues: dict[PeerId, asyncio.Queue[Message]] = {}
        """What is said to each worker on its current connection. One that comes back is told everything anew."""
        self._told = False
        """Whether the person has been told that nothing is kept any more."""

    def now(self) -> float:
        """Seconds since the coordinator began."""
        return time.monotonic() - self.began

    def carry_out(self, out: Outbox) -> None:
        """Write down the records, send the messages; `over` is set when nothing will follow."""
        stamp = round(self.now(), 4)
        for record in out.events:
            self.store.event({**record, "time_s": stamp})
        for record in out.metrics:
            self.store.metric({**record, "time_s": stamp})
        if self.store.broken and not self._told:
            self._told = True
            self.coordinator.warnings.append(f"events and metrics are kept no longer: {self.store.broken}")
        for worker, message in out.messages:
            if worker in self._queues:
                self._queues[worker].put_nowait(message)
        if self.coordinator.phase is Phase.OVER:
            self.over.set()

    async def watch(self) -> None:
        """Let time pass."""
        while True:
            await asyncio.sleep(TICK_S)
            self.carry_out(self.coordinator.tick(self.now()))

    # ------------------------------------------------------------------------------------------------- workers

    async def attend(self, socket: WebSocket) -> None:
        """One worker's connection, from its introduction to its end. Raises HangUp or ValueError to have it closed."""
        await socket.send_json(self.briefing)
        worker, answer, out = self._introduce(await self._read(socket))
        queue = self._queues[worker.name] = asyncio.Queue[Message]()
        if answer:
            queue.put_nowait(answer)
        self.carry_out(out)
        sender = asyncio.create_task(self._send(socket, queue))
        try:
            while True:
                message = await self._read(socket)
                self.carry_out(self.coordinator.receive(worker, message, self.now()))
        finally:
            sender.cancel()
            if self._queues.get(worker.name) is queue:  # otherwise it is back already, on another connection
                del self._queues[worker.name]
                self.coordinator.disconnected(worker, self.now())

    def _introduce(self, message: Message) -> tuple[Joined, Message, Outbox]:
        """The first message: who this is, and the answer. Raises HangUp when it cannot take part."""
        if "failed" in message:
            name = str(message.get("name", "a worker"))
            self.carry_out(self.coordinator.cannot_begin(name, letter.failure(message["failed"])))
            raise HangUp(OVER, "a worker that failed")
        if "again" in message:
            worker = self._claimed(*letter.claim(message["again"]))
            return worker, {}, self.coordinator.again(worker, self.now())
        worker, out = self.coordinator.join(letter.introduction(message.get("join")), self.now())
        if worker is None:
            self.carry_out(out)
            raise HangUp(OVER, "the run is over")
        return worker, {"joined": {"worker": worker.name, "incarnation": worker.incarnation}}, out

    def _claimed(self, name: PeerId, incarnation: int) -> Joined:
        """A worker whose connection broke is back."""
        worker = self.coordinator.registry.workers.get(name)
        if worker is None or worker.incarnation != incarnation:
            raise HangUp(NO_PLACE, f"there is no such {name}")
        return worker

    async def _read(self, socket: WebSocket) -> Message:
        event = await socket.receive()
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event["code"])
        text = event.get("text")
        if isinstance(text, str) and len(text) > MESSAGE_BYTES_MAX:
            raise HangUp(TOO_LONG, "message too long")
        return letter.read(text)

    async def _send(self, socket: WebSocket, queue: asyncio.Queue[Message]) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the reader sees the end of the connection too
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
                {"id": w.name, "slot": w.slot, "host": w.introduction.host, "step": w.step, "alive": w.name in alive}
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
            await socket.close(UNAUTHORISED, "wrong or missing token")
            return
        if desk.coordinator.phase is Phase.OVER:
            await socket.close(OVER, "the run is over")
            return
        await socket.accept()
        try:
            await desk.attend(socket)
        except WebSocketDisconnect:
            return
        except Refused as error:
            await socket.send_json({"refused": error.line()})
            await socket.close(NO_PLACE, "refused")
        except HangUp as error:
            await socket.close(error.code, error.reason)
        except ValueError:
            await socket.close(MALFORMED, "not a message")

    return app
