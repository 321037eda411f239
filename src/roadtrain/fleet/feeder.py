"""A feeder's life: meet the coordinator, make what workers ask for, and go when the run is over."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from roadtrain.data.feed_server import FeedServer
from roadtrain.data.line import FeedLine
from roadtrain.data.source import TASK, Source, TaskSource
from roadtrain.errors import PeerError, RoadtrainError, RunFailed
from roadtrain.fleet.close_codes import FINAL, OVER
from roadtrain.fleet.script import run_as_feeder
from roadtrain.fleet.worker_spec import WorkerSpec
from roadtrain.membership.feeding import PROTOCOL, FeederHello, FeederTold, encode, told_of
from roadtrain.plan import parse
from roadtrain.session.cpu_threads import use_threads
from roadtrain.session.worker_context import feed_as
from roadtrain.trainer.task import make_task
from roadtrain.version import VERSION
from roadtrain.view import PeerId
from roadtrain.wire.credentials import NAME

RETRY_S = (0.1, 1.0)
"""Between two attempts to reach a coordinator: the first, and the longest."""
LOST_S = 30.0
"""A feeder that finds no coordinator for so long goes: the run may have ended."""
FRAME_BYTES_MAX = 4_000_000


class FeederControl:
    """A feeder's connection to the coordinator, on a thread of its own. `hear` is given what it is told."""

    def __init__(self, given: WorkerSpec, address: str, hear: Callable[[FeederTold], None]) -> None:
        self._given, self._hear = given, hear
        self._hello = FeederHello(PROTOCOL, VERSION, secrets.token_hex(16), os.getpid(), socket.gethostname(), address)
        self._urls = [given.url]
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self.over = threading.Event()
        self.error: RoadtrainError | None = None
        self._thread = threading.Thread(target=self._run, name="coordinator", daemon=True)

    def start(self) -> None:
        """Connect, and stay so."""
        self._thread.start()

    def be(self, feeder: PeerId, incarnation: int) -> None:
        """What workers know it as, whoever is the coordinator."""
        self._hello = msgspec.structs.replace(self._hello, feeder=feeder, incarnation=incarnation)

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
        while time.monotonic() - heard_s < LOST_S:
            for url in list(self._urls):
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
        raise RunFailed(f"no coordinator for {LOST_S:.0f} s")

    async def _open(self, url: str) -> ClientConnection:
        credentials = self._given.credentials()
        tls = credentials.client_context()
        return await connect(
            f"{url}/api/feeder",
            additional_headers=dict(credentials.metadata),
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
        """Until the connection ends; whether the run is over."""
        await line.send(encode(self._hello))
        try:
            async for raw in line:
                if isinstance(raw, str):
                    raise PeerError("not what a feeder is told, but text")
                told = told_of(raw)
                scheme = self._given.url.partition("://")[0]
                self._urls = [self._given.url, *(f"{scheme}://{heir}" for heir in told.heirs)]
                await asyncio.to_thread(self._hear, told)
                if told.over:
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


class Feeder:
    """What one process feeds. It learns who it is, and what the run is, when the coordinator says so."""

    def __init__(self, given: WorkerSpec, target: str) -> None:
        """`target`: where what it feeds is on this machine; "" where the run says."""
        host = given.host if given.listens else None
        self._line = FeedLine.open(given.credentials(), host, relay=given.relay)
        self._target = target
        self._known = threading.Event()
        self._leaving = threading.Event()
        self._told: FeederTold | None = None
        self._sources: dict[str, Source] = {}
        self._server = FeedServer(self._line, self._sources.get)
        self._control = FeederControl(given, self._line.address, self._hear)

    def live(self) -> int:
        """Until the run is over; the exit code."""
        self._control.start()
        threading.Thread(target=self._watch, name="end", daemon=True).start()
        try:
            while not self._known.wait(0.2):
                if self._control.over.is_set() or self._leaving.is_set():
                    return self._end()
            self._work()
            return self._end()
        finally:
            self._control.leave()
            self._line.close()

    def _end(self) -> int:
        error = self._control.error
        if error is not None:
            print(error.line(), file=sys.stderr)
            return error.exit_code
        return 0

    def leave(self) -> None:
        """Go before the run is over. Any thread may call."""
        self._leaving.set()
        self._server.end()

    def _watch(self) -> None:
        self._control.over.wait()
        self._server.end()

    def _hear(self, told: FeederTold) -> None:
        """Called on the control's thread."""
        if self._told is None:
            self._server.start(told.feeder, told.incarnation)
            self._control.be(told.feeder, told.incarnation)
            self._told = told
            self._known.set()
        self._server.see(told.workers)

    def _work(self) -> None:
        """Make batches until the run is over: of a job's task, or of what a script gives its first loader."""
        assert self._told is not None, "it knows the run"
        plan = parse(self._told.run.plan)
        if self._target:
            plan = replace(plan, job=replace(plan.job, target=self._target))
        if self._told.run.chosen is None:
            self.serve(TASK, TaskSource(make_task(plan)))
        else:
            feed_as(self)
            run_as_feeder(plan.job.target, plan.job.arguments, plan.place.workers)

    def serve(self, name: str, source: Source) -> None:
        """See `FeederContext`."""
        self._sources[name] = source
        self._server.serve()


def feed(
    given: WorkerSpec, target: str = "", started: Callable[[Callable[[], None]], None] = lambda leave: None
) -> int:
    """Live as a feeder of the run at `given.url`; returns the exit code. `target`: as in `Feeder`; `started` is given what ends
    it before the run is over, which any thread may call."""
    if given.threads:
        use_threads(given.threads)
    try:
        feeder = Feeder(given, target)
        started(feeder.leave)
        return feeder.live()
    except RoadtrainError as error:
        print(error.trace or error.line(), file=sys.stderr)
        return error.exit_code
