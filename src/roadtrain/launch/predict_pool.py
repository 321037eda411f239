"""Worker processes of a prediction, as the driver sees them: asked ahead, taken in order, and started again where they die."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple, TypeAlias

from roadtrain.batches.consumer import Consumer
from roadtrain.batches.tree import unpack
from roadtrain.batches.work import Made, Work
from roadtrain.data import pipe
from roadtrain.data.pipe import Failed, Ready, RowsReply, RowsRequest, Told, Wire
from roadtrain.errors import PacketError, RunFailed, UsageError
from roadtrain.launch.predict_worker import PredictSpec, be_worker
from roadtrain.launch.process_server import sheltered, start

RESTARTS = 3
"""How often in turn a worker is started again that ends before it has answered anything."""
LOOK_S = 0.1
"""How often whoever waits looks whether there is another way, and whether the person has stopped it."""
GOODBYE_S = 5.0
"""How long the end of a process may take."""


class News(NamedTuple):
    """The process number `incarnation` of a worker has said something; None: it has ended."""

    worker: str
    incarnation: int
    told: Told | None
    made: Made | None = None


Inbox: TypeAlias = "queue.SimpleQueue[News]"


class WorkerProcess:
    """One process, and the thread that hears it."""

    def __init__(self, name: str, incarnation: int, process: ForkServerProcess, wire: Wire, inbox: Inbox) -> None:
        self.name, self.incarnation = name, incarnation
        self.ready = False
        self._process, self._wire, self._inbox = process, wire, inbox
        self._hearing = threading.Thread(target=self._hear, name=name, daemon=True)

    def hear(self) -> None:
        """Begin to."""
        self._hearing.start()

    def _hear(self) -> None:
        """Whatever ends it, the driver is told."""
        try:
            while True:
                told, packets = pipe.hear(self._wire)
                made = unpack(told.head, packets, self.name) if isinstance(told, RowsReply) else None
                self._inbox.put(News(self.name, self.incarnation, told, made))
        except (EOFError, OSError, PacketError):
            pass
        finally:
            self._inbox.put(News(self.name, self.incarnation, None))

    def ask(self, request: RowsRequest) -> None:
        """What is said to one that has ended is lost: it is asked of another then."""
        with contextlib.suppress(OSError):
            pipe.ask(self._wire, request)

    def end(self, patience_s: float = 0.0) -> int | None:
        """Wait so long for its end, and see to it; its exit code."""
        self._process.join(timeout=patience_s)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join(timeout=GOODBYE_S)
        self._hearing.join(timeout=GOODBYE_S)
        self._wire.close()
        return self._process.exitcode


class PredictPool:
    """So many workers of `spec`, with their logs in `logs`. A context manager: no worker is left behind it.

    `stop` is called now and then, and may raise.
    """

    def __init__(self, spec: PredictSpec, workers: int, logs: Path, stop: Callable[[], None]) -> None:
        self.lost = 0
        """Workers that ended so far."""
        self._spec, self._logs, self._stop = spec, logs, stop
        self._names = [f"w{slot}" for slot in range(workers)]
        self._context = start()
        self._inbox: Inbox = queue.SimpleQueue()
        self._incarnations = itertools.count(1)
        self._processes: dict[str, WorkerProcess] = {}
        self._ended_early = dict.fromkeys(self._names, 0)
        self._rows: int | None = None
        self._consumer = Consumer(self._say, itertools.count(1))

    def __enter__(self) -> PredictPool:
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write to {self._logs}: {error.strerror}", "choose another --out") from None
        try:
            for name in self._names:
                self._start(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes.values():
            process.end()

    def _start(self, name: str) -> None:
        here, there = multiprocessing.Pipe()
        slot, log = self._names.index(name), str(self._logs / f"{name}.log")
        # Not daemonic: those may have no processes of their own, which a job may want.
        process = self._context.Process(target=be_worker, args=(self._spec, slot, there, log), name=name)
        try:
            with sheltered():
                process.start()
        except OSError as error:
            raise RunFailed(f"cannot start a worker process: {error}") from error
        there.close()
        begun = WorkerProcess(name, next(self._incarnations), process, here, self._inbox)
        self._processes[name] = begun
        begun.hear()

    # ------------------------------------------------------------------------------------------------------ in turn

    def rows(self) -> int:
        """How many the workers see: waits for the first that says so. Raises as `outputs` does."""
        while self._rows is None:
            self._look()
        return self._rows

    def outputs(self, works: Iterator[Work]) -> Iterator[Made]:
        """What is made of each, in order. No more works are drawn than are asked for. Raises UsageError and RunFailed for what no
        worker can make, and RunFailed when workers end again and again."""
        ahead: deque[Work] = deque()
        while True:
            ahead.extend(itertools.islice(works, max(0, self._consumer.depth - len(ahead))))
            if not ahead:
                return
            self._consumer.want(list(ahead), time.monotonic())
            while not self._consumer.is_here(ahead[0]):
                self._look()
            made = self._consumer.take(ahead.popleft())
            assert made is not None, "it is here"
            self._stop()
            yield made

    def _say(self, worker: str, number: int, work: Work) -> None:
        self._processes[worker].ask(RowsRequest(number, work.draws, work.samples))

    def _look(self) -> None:
        """Wait a moment for news."""
        self._stop()
        try:
            news = self._inbox.get(timeout=LOOK_S)
        except queue.Empty:
            pass
        else:
            self._take(news)
        self._consumer.hedge(time.monotonic())

    def _take(self, news: News) -> None:
        process = self._processes[news.worker]
        if news.incarnation != process.incarnation:
            return
        match news.told:
            case None:
                self._ended(process)
            case Ready(rows):
                if self._rows is not None and rows != self._rows:
                    raise RunFailed(f"workers see {self._rows} and {rows} rows of {self._spec.input}")
                self._rows = rows
                process.ready = True
                self._see()
            case Failed(message, hint, mistake):
                raise (UsageError if mistake else RunFailed)(message, hint)
            case RowsReply(number):
                self._ended_early[news.worker] = 0
                assert news.made is not None, "it was unpacked"
                self._consumer.arrived(news.worker, number, news.made, time.monotonic())

    def _see(self) -> None:
        ready = {name: process.incarnation for name, process in self._processes.items() if process.ready}
        self._consumer.see(ready, time.monotonic())

    def _ended(self, process: WorkerProcess) -> None:
        """What it was asked for is asked of others, and another is started in its place."""
        code = process.end(GOODBYE_S)
        process.ready = False
        self.lost += 1
        self._see()
        self._ended_early[process.name] += 1
        if self._ended_early[process.name] > RESTARTS:
            how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
            what = f"{process.name} {how}, {self._ended_early[process.name]} times in turn"
            raise RunFailed(what, f"{self._logs / process.name}.log has its words; the same command goes on")
        self._start(process.name)
