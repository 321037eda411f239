"""A relay by itself: a host that all workers can dial, and that takes no other part in their runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

from fastapi import FastAPI
from websockets.exceptions import InvalidState

from roadtrain.errors import UsageError
from roadtrain.fleet.relay import relay_router
from roadtrain.fleet.serving import listen, server_of
from roadtrain.wire.address import joined, parted
from roadtrain.wire.credentials import Credentials, is_loopback


def serve_relay(address: str, environment: Mapping[str, str], ready: Callable[[str], None]) -> None:
    """Listen at `address` (host:port, port 0: a free one) until Ctrl-C; `ready` is told the url. Raises UsageError."""
    host, port = _parted(address)
    token = environment.get("ROADTRAIN_TOKEN", "")
    if not token:
        raise UsageError("a relay needs a token", "set ROADTRAIN_TOKEN to the same secret as on the workers")
    credentials = Credentials(token, secure=not is_loopback(host))
    listener = listen(host, port)
    server = server_of(relay_app(credentials), credentials)
    listener.listen()  # from here on whoever comes is not sent away
    ready(f"{'wss' if credentials.secure else 'ws'}://{joined(host, listener.getsockname()[1])}")
    with contextlib.suppress(KeyboardInterrupt, InvalidState):  # of a connection that was closing already at the end
        server.run(sockets=[listener])


def _parted(address: str) -> tuple[str, int]:
    try:
        host, port = parted(address)
    except ValueError:
        host, port = "", 0
    if not host or not 0 <= port < 1 << 16:
        raise UsageError(f"{address} is no HOST:PORT", "such as 0.0.0.0:29500")
    return host, port


def relay_app(credentials: Credentials) -> FastAPI:
    """For whoever has the token. Runs that share it have a name of their own behind the url: wss://HOST:PORT/NAME."""
    app = FastAPI(title="roadtrain relay", docs_url=None, redoc_url=None, openapi_url=None)
    router = relay_router(lambda authorization: "" if credentials.accepts(authorization) else None)
    app.include_router(router)
    app.include_router(router, prefix="/{name}")

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app
