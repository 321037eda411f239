"""The way in: where peers dial, and ask for states. Checks the token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, cast

import grpc

from roadtrain.errors import PacketError, PeerError
from roadtrain.wire.address import joined
from roadtrain.wire.connection import METHOD
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.hello import OtherVersion
from roadtrain.wire.state_transfer import METHOD as TRANSFER
from roadtrain.wire.state_transfer import Offers
from roadtrain.wire.stream import ENDED, Pipe
from roadtrain.wire.transport import make_server

Context = grpc.aio.ServicerContext[bytes, bytes]


class Server:
    """Listens. `welcome(pipe, dialled_from)` sees a stream through; `failed` is told of errors that are not the peer's."""

    def __init__(
        self,
        credentials: Credentials,
        offers: Offers,
        welcome: Callable[[Pipe, str], Coroutine[Any, Any, None]],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._credentials = credentials
        self._offers = offers
        self._welcome = welcome
        self._failed = failed
        self._server: grpc.aio.Server | None = None
        self._calls: set[asyncio.Task[None]] = set()

    async def start(self, host: str | None, local: str | None) -> int:
        """Listen on a free port of `host`, and at `local`, a Unix socket as gRPC writes it, where what comes has passed through
        others; returns the port, 0 where there is no `host`."""
        self._server = server = make_server()
        connect: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(self._connect)
        transfer: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(self._offers.serve)
        handlers = {METHOD: connect, TRANSFER: transfer}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("roadtrain.Peers", handlers),))
        port = 0
        if host is not None:
            secure, address = self._credentials.server(), joined(host, 0)
            port = server.add_insecure_port(address) if secure is None else server.add_secure_port(address, secure)
        sealed = self._credentials.sealed().server()
        if local is not None and sealed is not None:
            server.add_secure_port(local, sealed)
        await server.start()
        return port

    async def stop(self) -> None:
        """Close all streams. gRPC warns of those that it finds open."""
        for call in self._calls:
            call.cancel()
        if self._calls:
            await asyncio.wait(self._calls)
        if self._server is not None:
            await self._server.stop(grace=None)

    async def _connect(self, _: AsyncIterator[bytes], context: Context) -> None:
        metadata = {str(name): value for name, value in context.invocation_metadata() or ()}
        if not self._credentials.accepts(str(metadata.get("authorization", ""))):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong token")
        call = asyncio.create_task(self._welcome(cast(Pipe, context), context.peer()))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        try:
            await call
        except (*ENDED, asyncio.CancelledError):
            return
        except OtherVersion as error:
            self._failed(error)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, error.line())
        except PacketError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        except (PeerError, TimeoutError) as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        except Exception as error:  # gRPC would only print it
            self._failed(error)
            await context.abort(grpc.StatusCode.INTERNAL, type(error).__name__)
