"""The driver as its run's feeder: it is told where the run's coordinator is, and sends batches from then on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from roadtrain.batches.work import Made, Work, indices_of
from roadtrain.data.feed_server import FeedServer
from roadtrain.data.line import FeedLine
from roadtrain.driven.order import SOURCE
from roadtrain.errors import PacketError
from roadtrain.fleet.feeder import FeederControl
from roadtrain.fleet.worker_spec import WorkerSpec
from roadtrain.membership.feeding import FeederTold
from roadtrain.notebook.loader_batches import LoaderBatches


class DriverFeeder:
    """Sends the batches of `batches`. `at` says to whom; `close` ends it."""

    def __init__(self, batches: LoaderBatches) -> None:
        self._batches = batches
        self._lock = threading.Lock()
        self._at: WorkerSpec | None = None
        self._visit: _Visit | None = None
        self._failure: Exception | None = None

    def at(self, given: WorkerSpec) -> None:
        """The run's coordinator is at `given.url`: feed it, and no other. Again is as once, unless it has forgotten us."""
        if self._visit is not None and (given != self._at or self._visit.over):
            self._visit.close()
            self._visit = None
        if self._visit is None:
            self._at, self._visit = given, _Visit(given, self._make)

    def look(self) -> None:
        """Raises what the loader has raised, if it has."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Send no more."""
        if self._visit is not None:
            self._visit.close()
            self._visit = None

    def _make(self, work: Work) -> Made:
        (number,) = indices_of(work)
        if work.source != SOURCE or number < 0:
            raise PacketError(f"there is no batch {number} of {work.source} here")
        try:
            with self._lock:
                return self._batches.take(number)
        except Exception as error:
            self._failure = self._failure or error
            raise


class _Server(FeedServer):
    """Of batches that no source makes of samples."""

    def __init__(self, line: FeedLine, take: Callable[[Work], Made]) -> None:
        super().__init__(line, lambda name: None)
        self._take_batch = take

    def make(self, work: Work) -> Made:
        return self._take_batch(work)


class _Visit:
    """At one coordinator, until the run is over there, or it knows this feeder by another name. `over`: whether that is so."""

    def __init__(self, given: WorkerSpec, take: Callable[[Work], Made]) -> None:
        host = given.host if given.listens else None
        self._line = FeedLine.open(given.credentials(), host, relay=given.relay)
        self._server = _Server(self._line, take)
        self._control = FeederControl(given, self._line.address, self._hear)
        self._told: FeederTold | None = None
        self._forgotten = False
        self._serving = threading.Thread(target=self._server.serve, name="batches", daemon=True)
        self._serving.start()
        self._control.start()

    @property
    def over(self) -> bool:
        return self._forgotten

    def _hear(self, told: FeederTold) -> None:
        """Called on the control's thread."""
        if self._told is None:
            self._told = told
            self._server.start(told.feeder, told.incarnation)
        elif told.feeder != self._told.feeder:  # the connection was broken for long
            self._forgotten = True
            return
        self._server.see(told.workers)

    def close(self) -> None:
        """Leave."""
        self._server.end()
        self._control.leave()
        self._serving.join()
        with contextlib.suppress(RuntimeError):
            self._line.close()
