"""A feeder's life: meet the coordinator, make what workers ask for, and go when the run is over."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import replace

import msgspec

from roadtrain.data.feed_server import FeedServer
from roadtrain.data.line import FeedLine
from roadtrain.data.source import TASK, Source, TaskSource
from roadtrain.errors import RoadtrainError
from roadtrain.fleet.desk_line import DeskLine
from roadtrain.fleet.script import run_as_feeder
from roadtrain.fleet.worker_spec import WorkerSpec
from roadtrain.membership.feeding import PROTOCOL, FeederHello, FeederTold, encode, told_of
from roadtrain.plan import parse
from roadtrain.session.cpu_threads import use_threads
from roadtrain.session.worker_context import feed_as
from roadtrain.trainer.task import make_task
from roadtrain.version import VERSION
from roadtrain.view import PeerId

LOST_S = 30.0
"""A feeder that finds no coordinator for so long goes: the run may have ended."""


class FeederControl:
    """A feeder's connection to the coordinator of a run. `hear` is given what it is told."""

    def __init__(self, given: WorkerSpec, address: str, hear: Callable[[FeederTold], None]) -> None:
        self._given, self._tell = given, hear
        self._hello = FeederHello(PROTOCOL, VERSION, secrets.token_hex(16), os.getpid(), socket.gethostname(), address)
        self._line = DeskLine(
            given.credentials(), [given.url], "/api/feeder", lambda: encode(self._hello), self._hear, LOST_S
        )

    @property
    def over(self) -> threading.Event:
        """Set when the line has ended."""
        return self._line.over

    @property
    def error(self) -> RoadtrainError | None:
        """Why, where that is an error."""
        return self._line.error

    def start(self) -> None:
        """Connect, and stay so."""
        self._line.start()

    def be(self, feeder: PeerId, incarnation: int) -> None:
        """What workers know it as, whoever is the coordinator."""
        self._hello = msgspec.structs.replace(self._hello, feeder=feeder, incarnation=incarnation)

    def leave(self) -> None:
        """Say that it goes, and hang up."""
        self._line.leave()

    def _hear(self, raw: bytes) -> bool:
        """Called on the line's thread."""
        told = told_of(raw)
        scheme = self._given.url.partition("://")[0]
        self._line.urls = [self._given.url, *(f"{scheme}://{heir}" for heir in told.heirs)]
        self._tell(told)
        return told.over


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
            self.know(TASK, TaskSource(make_task(plan)))
            self.serve()
        else:
            feed_as(self)
            run_as_feeder(plan.job.target, plan.job.arguments, plan.place.workers)

    def know(self, name: str, source: Source) -> None:
        """See `FeederContext`."""
        self._sources[name] = source

    def serve(self) -> None:
        """See `FeederContext`."""
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
