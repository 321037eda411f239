"""The workers of a machine, as processes that are forked from one server with torch in it, and the folders of their files."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import msgspec

from roadtrain.fleet.worker_spec import OwnFolder, WorkerSpec
from roadtrain.launch.cores import cores
from roadtrain.launch.process_server import sheltered, start
from roadtrain.orchestrate.machine import LocalWorker, WorkerOrder, WorkerState
from roadtrain.orchestrate.worker_process import LEAVE, be_worker, count_devices, stem_of
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.relay import Relay

KILL_S = 5.0
FAR_BYTES_MAX = 64
_far = msgspec.msgpack.Decoder(tuple[int, float | None])


@dataclass(slots=True)
class Hand:
    """One worker: its order and its process, or what is left of it. `step`, `loss`: how far it says it is. `brought`: files
    that the coordinator has, by name, with size and time."""

    order: WorkerOrder
    state: WorkerState = "running"
    code: int = 0
    process: ForkServerProcess | None = None
    pipe: Connection | None = None
    step: int = 0
    loss: float | None = None
    brought: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])


Key = tuple[str, int, int]
"""Of a worker: its run, the attempt, its slot."""


class Crew:
    """`folder`: all that is written here because of a coordinator is in it."""

    def __init__(self, folder: Path, devices: int) -> None:
        self.folder = folder
        self.hands: dict[Key, Hand] = {}
        self._context = start()
        self._devices = devices

    def devices(self) -> tuple[int, str]:
        """How many devices there are, and of what kind; takes as long as torch takes to be imported."""
        mine, theirs = multiprocessing.Pipe(duplex=False)
        process = self._context.Process(target=count_devices, args=(theirs,))
        with sheltered():
            process.start()
        theirs.close()
        try:
            found: tuple[int, str] = mine.recv()
        except EOFError:
            found = 1, "cpu"
        process.join()
        self._devices = self._devices or found[0]
        return self._devices, found[1]

    # --------------------------------------------------------------------------------------------------- folders

    def run_folder(self, run: str) -> Path:
        """Of a run, on this machine."""
        return self.folder / "runs" / run

    def archive(self, digest: str) -> Path:
        """An archive of files that came from a driver."""
        return self.folder / "archives" / f"{digest}.zip"

    def files(self, digest: str) -> Path:
        """Where it is unpacked: the folder that its workers are in."""
        return self.folder / "files" / (digest or "none")

    # ------------------------------------------------------------------------------------------------- processes

    def begin(
        self, order: WorkerOrder, url: str, certificate: str, host: str, *, takes_code: bool, listens: bool
    ) -> None:
        """Start the worker of `order`; its files are here. Raises OSError when that cannot be done."""
        folder = self.run_folder(order.run)
        folder.mkdir(parents=True, exist_ok=True)
        own = OwnFolder(str(folder), str(self.files(order.archive)), takes_code)
        threads = 0 if os.environ.get("OMP_NUM_THREADS") else max(1, cores() // max(1, self._devices))
        relay = Relay(url, Credentials(order.token, secure=True).metadata[0][1], certificate)
        given = WorkerSpec(
            url, order.token, True, order.slot, host, order.device, threads, certificate, own, relay, listens
        )
        theirs, mine = multiprocessing.Pipe(duplex=True)
        process = self._context.Process(
            target=be_worker, args=(given, theirs, stem_of(folder, order.slot)), name=f"w{order.slot}"
        )
        with sheltered():
            process.start()
        theirs.close()
        self.hands[key_of(order)] = Hand(order, process=process, pipe=mine)

    def failed(self, order: WorkerOrder, why: str) -> None:
        """It could not be started."""
        log = Path(stem_of(self.run_folder(order.run), order.slot) + ".log")
        log.write_text(f"{why}\n", encoding="utf-8")
        self.hands[key_of(order)] = Hand(order, "ended", 1)

    def look(self) -> bool:
        """Whether a process has ended since."""
        for hand in self.hands.values():
            _hear(hand)
        running = {hand.process.sentinel: hand for hand in self.hands.values() if hand.process is not None}
        over = wait(list(running), timeout=0) if running else []
        for sentinel in over:
            hand = running[sentinel]  # pyright: ignore[reportArgumentType]
            assert hand.process is not None
            hand.process.join()
            hand.code, hand.state = hand.process.exitcode or 0, "ended"
            self._close(hand)
        return bool(over)

    def _close(self, hand: Hand) -> None:
        if hand.pipe is not None:
            hand.pipe.close()
        hand.process = hand.pipe = None

    def leave(self) -> None:
        """Tell all workers to go, when others hold what they hold."""
        for hand in self.hands.values():
            if hand.pipe is not None:
                try:
                    hand.pipe.send_bytes(LEAVE)
                except OSError:  # it is ending
                    continue

    def end(self, keys: Iterable[Key]) -> None:
        """End these at once."""
        for key in list(keys):
            hand = self.hands.pop(key)
            if hand.process is not None:
                hand.process.kill()
                hand.process.join(KILL_S)
                self._close(hand)

    def forget(self, run: str) -> None:
        """Nothing of a run is wanted any more."""
        shutil.rmtree(self.run_folder(run), ignore_errors=True)

    def report(self) -> tuple[LocalWorker, ...]:
        """All of them."""
        return tuple(
            LocalWorker(o.run, o.attempt, o.slot, o.generation, hand.state, hand.code)
            for hand in self.hands.values()
            for o in (hand.order,)
        )


def _hear(hand: Hand) -> None:
    """How far a worker says it is; what is not that is nothing to us: it may run code of others."""
    try:
        while hand.pipe is not None and hand.pipe.poll():
            hand.step, hand.loss = _far.decode(hand.pipe.recv_bytes(FAR_BYTES_MAX))
    except (OSError, EOFError, msgspec.MsgspecError):
        return


def key_of(order: WorkerOrder) -> Key:
    """See `Key`."""
    return order.run, order.attempt, order.slot
