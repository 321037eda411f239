"""Pages of other sites: a browser that has one open sends its requests here too. They may change nothing, and hear nothing."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

READS = ("GET", "HEAD", "OPTIONS")
SECURE = {"wss": "https", "ws": "http"}


class OwnOriginOnly:
    """Around `app`: a request that changes something, or a WebSocket, from a page of another origin is refused with 403."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "websocket" and _is_foreign(scope):
            await send({"type": "websocket.close", "code": 1008, "reason": "another site's page"})
        elif scope["type"] == "http" and scope["method"] not in READS and _is_foreign(scope):
            await JSONResponse({"error": "refused: another site's page asks"}, 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _is_foreign(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    scheme = SECURE.get(scope["scheme"], scope["scheme"])
    return origin is not None and origin != f"{scheme}://{headers.get('host', '')}"
