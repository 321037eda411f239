"""`rt.feed`: this machine makes batches of a person's own data for whoever takes them by their name."""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import msgspec

from roadtrain.data.offered import Offered, offered
from roadtrain.errors import RunFailed, UsageError
from roadtrain.launch.cores import cores
from roadtrain.launch.process_server import hearing
from roadtrain.orchestrate.data_meeting import Way, ask_way
from roadtrain.orchestrate.data_process import Refused, be_data_feeder
from roadtrain.orchestrate.ticket import Ticket

DATA = "data"
"""What data are called where nobody gives them a name."""
LOOK_S = 0.2
AGAIN_S = 2.0
"""A process that has ended is started again after so long."""
GOODBYE_S = 5.0


def feed(
    data: Any,
    on: str | None = None,
    *,
    name: str = DATA,
    collate_fn: Callable[[Any], Any] | None = None,
    processes: int = 0,
    host: str = "",
    listens: bool = True,
) -> None:
    """Make batches of `data` for those that have `rt.remote_data(ticket, name)`, until Ctrl-C or SIGTERM. Blocks.

    `data`: a dataset (of torch, of Hugging Face, or anything with `__len__` and `__getitem__`), a stream that has the same
    elements each time it is gone through (an IterableDataset, or anything whose `__iter__` begins anew), a DataLoader of one,
    whose dataset, collate_fn, batch_size and num_workers are taken, or a dict of several by their names. Whoever takes them says
    in which order. `on`: a ticket or a file that holds one; without it, what ROADTRAIN_TICKET says. `processes`: as many of
    each, 0 for a DataLoader's num_workers, or one for each core. `host`: where others reach this machine; not `listens`: it opens
    no port. Any number of machines may feed the same data; one whose data differ is refused.

    Raises UsageError for data that cannot be fed, and a ticket that does not serve to it; RunFailed when nobody answers.
    """
    ticket = Ticket.given(on)
    several: Mapping[str, Any] = data if isinstance(data, dict) else {name: data}
    if not several:
        raise UsageError("there is nothing to feed: the dict is empty")
    hands: list[_Hand] = []
    for each, given in several.items():
        found = offered(given, collate_fn)
        way = ask_way(ticket, each, feeds=True, host=host, listens=listens)
        count = processes or found.processes or max(1, cores() // len(several))
        hands += [_Hand(each, way, found) for _ in range(count)]
        length = "a stream" if found.offer.size is None else f"{found.offer.size} samples"
        _say(f"feeds {each!r}, {length}; Ctrl-C ends it")
    _Hands(hands).live()


@dataclass(slots=True, eq=False)
class _Hand:
    """One process: what it feeds, and the process when there is one."""

    name: str
    way: Way
    what: Offered
    process: BaseProcess | None = None
    pipe: Connection | None = None
    begun_s: float = -AGAIN_S


class _Hands:
    """The processes of this machine."""

    def __init__(self, hands: Sequence[_Hand]) -> None:
        self._hands = hands
        self._over = threading.Event()

    def live(self) -> None:
        """Until it is asked to end. Raises RunFailed when the coordinator refuses them."""
        # As a DataLoader's processes are made: a dataset need not be picklable.
        context: Any = multiprocessing.get_context(
            "fork" if "fork" in multiprocessing.get_all_start_methods() else None
        )
        with hearing(lambda number, frame: self._over.set()):
            try:
                while not self._over.is_set():
                    for hand in self._hands:
                        self._look(context, hand)
                    self._over.wait(LOOK_S)
            finally:
                self._end()

    def _look(self, context: Any, hand: _Hand) -> None:
        """See that it lives."""
        if hand.process is not None and hand.process.is_alive():
            return
        said = _heard(hand.pipe)
        if said is not None:
            raise RunFailed(f"{hand.name!r} cannot be fed from here: {said.message}", said.hint)
        if time.monotonic() - hand.begun_s < AGAIN_S:
            return
        if hand.process is not None:
            _say(f"a process that feeds {hand.name!r} has ended ({hand.process.exitcode}); another one begins")
        hand.begun_s = time.monotonic()
        hand.pipe, theirs = multiprocessing.Pipe(duplex=False)
        process = context.Process(target=be_data_feeder, args=(hand.way, hand.what, theirs), daemon=True)
        process.start()
        hand.process = process
        theirs.close()

    def _end(self) -> None:
        begun = [hand.process for hand in self._hands if hand.process is not None]
        for process in begun:
            process.terminate()
        for process in begun:
            process.join(GOODBYE_S)
            if process.is_alive():
                process.kill()
                process.join(GOODBYE_S)


def _heard(pipe: Connection | None) -> Refused | None:
    """What a process that has ended has said last, if it has."""
    try:
        return None if pipe is None else msgspec.json.decode(pipe.recv_bytes(), type=Refused)
    except EOFError:
        return None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
