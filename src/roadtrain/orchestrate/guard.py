"""The lobby (`lobby.py`) at a coordinator's socket: a listener that does not take connections from addresses that have failed too
often, before any TLS, and a layer around the app that sees who has proven something, and who was refused."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from roadtrain.fleet.close_codes import MALFORMED, TOO_LONG, UNAUTHORISED
from roadtrain.orchestrate.lobby import Key, Lobby
from roadtrain.orchestrate.log import Log

LOOK_S = 0.5
REFUSALS = (400, 401, 403, 413, 422)
FAULTS = (UNAUTHORISED, MALFORMED, TOO_LONG, 1002, 1008, 1009)
PUBLIC = ("/", "/health", "/api/pairing", "/api/pairing/proof")
"""Who asks for these has proven nothing by being heard or answered, nor done wrong."""


class Guard:
    """The connections of one listener. Lives on one asyncio loop."""

    def __init__(self, log: Log) -> None:
        self.lobby = Lobby()
        self._log = log
        self._sockets: dict[Key, socket.socket] = {}

    def take(self, connection: socket.socket, address: Any) -> bool:
        """Whether a connection that was just accepted is let in; it is closed otherwise."""
        now, key = time.monotonic(), (address[0], address[1])
        if not self.lobby.admits(key[0], now):
            connection.close()
            self._log.seldom("refused", (key[0],), host=key[0], why="too many failed attempts; it is not let in")
            return False
        self._sockets[key] = connection
        self._hang_up(self.lobby.enter(key, now))
        return True

    def look(self) -> None:
        """Time has passed."""
        now = time.monotonic()
        for key in [key for key, connection in self._sockets.items() if connection.fileno() < 0]:
            del self._sockets[key]
            self.lobby.ended(key, now)
        late = self.lobby.overdue(now)
        self._hang_up(late)
        for host in {host for host, _ in late}:
            self._log.seldom("refused", (host, "late"), host=host, why="connections that say nothing for too long")
        self._log.settle()

    def _hang_up(self, keys: list[Key]) -> None:
        for key in keys:
            connection = self._sockets.pop(key, None)
            if connection is not None:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def proven(self, key: Key) -> None:
        """Who is there may be."""
        self.lobby.prove(key, time.monotonic())
        self._sockets.pop(key, None)

    def failed(self, key: Key) -> None:
        """Who is there was refused."""
        self.lobby.failed(key[0], time.monotonic())


class GuardedListener(socket.socket):
    """A listening socket whose `accept` asks the guard."""

    def __init__(self, listener: socket.socket, guard: Guard) -> None:
        super().__init__(fileno=listener.detach())
        self._guard = guard

    def accept(self) -> tuple[socket.socket, Any]:
        """As of any socket. Raises ConnectionAbortedError for one that is not let in."""
        connection, address = super().accept()
        if not self._guard.take(connection, address):
            raise ConnectionAbortedError
        return connection, address


class Guarded:
    """Around `app`: tells the guard what comes of requests and WebSockets."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app, self._guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        client = scope.get("client")
        if client is None or scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        key, accepted = (client[0], client[1]), scope["type"] == "http"
        public = scope["path"] in PUBLIC or scope["path"].startswith("/page/")

        async def heard() -> Message:
            if accepted and not public:  # the app listens to what is said: it has let them in
                self._guard.proven(key)
            return await receive()

        async def said(message: Message) -> None:
            nonlocal accepted
            accepted = accepted or message["type"] == "websocket.accept"
            self._note(key, message, public=public)
            await send(message)

        await self._app(scope, heard, said)

    def _note(self, key: Key, message: Message, *, public: bool) -> None:
        match message["type"]:
            case "http.response.start":
                if message["status"] in REFUSALS:
                    self._guard.failed(key)
                elif message["status"] < 400 and not public:
                    self._guard.proven(key)
            case "websocket.close":
                if message.get("code") in FAULTS:
                    self._guard.failed(key)
            case _:
                pass
