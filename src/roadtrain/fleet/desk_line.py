"""A connection to a coordinator's desk, on a thread of its own, and made anew whenever it breaks: the end of whoever feeds or is
fed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from roadtrain.errors import PeerError, RoadtrainError, RunFailed
from roadtrain.fleet.close_codes import FINAL, OVER
from roadtrain.wire.credentials import NAME, Credentials

RETRY_S = (0.1, 1.0)
"""Between two attempts to reach a coordinator: the first, and the longest."""
FRAME_BYTES_MAX = 4_000_000


class DeskLine:
    """`hello` is said first on each connection; `hear` is given what is told, and says whether that was all. `start` connects.

    `urls`: where the coordinator may be, without `path`. `patience_s`: how long it is looked for in vain. `over` is set when the
    line has ended, and `error` is why, where that is one.
    """

    def __init__(
        self,
        credentials: Credentials,
        urls: list[str],
        path: str,
        hello: Callable[[], bytes],
        hear: Callable[[bytes], bool],
        patience_s: float,
    ) -> None:
        self.urls = urls
        self.over = threading.Event()
        self.error: RoadtrainError | None = None
        self._credentials, self._path, self._patience_s = credentials, path, patience_s
        self._hello, self._hear = hello, hear
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="coordinator", daemon=True)

    def start(self) -> None:
        """Connect, and stay so."""
        self._thread.start()

    def leave(self) -> None:
        """Say that it goes, and hang up."""
        if self._task is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(timeout=3.0)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._live())
        except asyncio.CancelledError:
            pass
        except RoadtrainError as error:
            self.error = error
        except Exception as error:  # whatever it is, nobody shall wait for it
            self.error = RunFailed(f"the line to the coordinator broke: {type(error).__name__}: {error}")
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
            self.over.set()

    async def _live(self) -> None:
        self._task = asyncio.current_task()
        pause_s, heard_s = RETRY_S[0], time.monotonic()
        while time.monotonic() - heard_s < self._patience_s:
            for url in list(self.urls):
                try:
                    async with await self._open(url) as line:
                        pause_s = RETRY_S[0]
                        if await self._listen(line):
                            return
                        heard_s = time.monotonic()
                except InvalidStatus as error:
                    if error.response.status_code in (401, 403):
                        raise RunFailed("the coordinator refuses this feeder", "is the token the same?") from error
                except (OSError, WebSocketException, TimeoutError):
                    continue
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_S[1])
        raise RunFailed(f"no coordinator for {self._patience_s:.0f} s")

    async def _open(self, url: str) -> ClientConnection:
        tls = self._credentials.client_context()
        return await connect(
            f"{url}{self._path}",
            additional_headers=dict(self._credentials.metadata),
            ssl=tls,
            server_hostname=NAME if tls is not None else None,
            proxy=None,
            compression=None,
            max_size=FRAME_BYTES_MAX,
            ping_interval=5,
            ping_timeout=10,
            close_timeout=1.0,
            open_timeout=10,
        )

    async def _listen(self, line: ClientConnection) -> bool:
        """Until the connection ends; whether there is no more to hear."""
        await line.send(self._hello())
        try:
            async for raw in line:
                if isinstance(raw, str):
                    raise PeerError("not what a feeder is told, but text")
                if await asyncio.to_thread(self._hear, raw):
                    return True
        except asyncio.CancelledError:
            await line.send(b"")  # it goes
            raise
        except ConnectionClosed as closed:
            self._look_at(closed)
        return line.close_code == OVER

    def _look_at(self, closed: ConnectionClosed) -> None:
        """Raises RunFailed for what no other attempt changes."""
        code = closed.rcvd.code if closed.rcvd is not None else 0
        if code in FINAL and code != OVER:
            raise RunFailed(closed.rcvd.reason if closed.rcvd is not None else "refused")
