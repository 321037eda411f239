"""A feeder's side: one thread hears what workers ask for, another makes it."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping

from roadtrain.batches.producer import Ask, Producer
from roadtrain.batches.squeeze import Squeeze
from roadtrain.batches.tree import pack, pack_failure, squeezed
from roadtrain.batches.work import Made, Work, decode_work
from roadtrain.codec.packet import Packet
from roadtrain.data.line import FeedLine
from roadtrain.data.source import Source, make
from roadtrain.errors import PacketError, RoadtrainError, UsageError
from roadtrain.message import BatchReply, BatchRequest, Envelope
from roadtrain.view import PeerId, Place

LOOK_S = 1.0
"""How long what a line carries is taken to be what it was."""


class FeedServer:
    """`source`: by its name, the one that makes batches of it; None: there is none here. `start`, then `serve`."""

    def __init__(self, line: FeedLine, source: Callable[[str], Source | None]) -> None:
        self.made = 0
        """Samples so far."""
        self._line, self._source = line, source
        self._news = threading.Condition()
        self._producer = Producer()
        self._over = False
        self._squeezes: dict[PeerId, Squeeze] = {}
        self._rates: dict[PeerId, tuple[float, float | None]] = {}

    def start(self, me: PeerId, incarnation: int) -> None:
        """Be there for workers, as `me`."""
        self._line.start(me, incarnation, self._take, self._broken)

    def see(self, places: Mapping[PeerId, Place]) -> None:
        """These workers are there, and no others. Any thread but the line's may call."""
        self._line.meet(places)
        with self._news:
            self._producer.keep(frozenset(places))

    def _broken(self, error: BaseException) -> None:
        print(f"the connections to the workers broke: {type(error).__name__}: {error}", file=sys.stderr)
        self.end()

    def _take(self, envelope: Envelope) -> None:
        message = envelope.message
        if not isinstance(message, BatchRequest):
            return
        try:
            asked = Ask(envelope.source, message.number, decode_work(message.work))
        except PacketError as error:
            self._line.say(envelope.source, BatchReply(message.number, pack_failure(error.message), ()))
            return
        with self._news:
            self._producer.ask(asked)
            self._news.notify()

    def end(self) -> None:
        """Make nothing more. Any thread may call."""
        with self._news:
            self._over = True
            self._news.notify()

    def serve(self) -> None:
        """Make what is asked for, on this thread, until `end`."""
        while True:
            with self._news:
                asked = self._producer.next()
                while asked is None and not self._over:
                    self._news.wait()
                    asked = self._producer.next()
                if self._over or asked is None:
                    return
            self._line.say(asked.worker, self._answer(asked))

    def _squeezed(self, worker: PeerId, packets: tuple[Packet, ...]) -> tuple[Packet, ...]:
        """Compressed, where the line to that worker is so slow that it is worth it."""
        squeeze = self._squeezes.setdefault(worker, Squeeze())
        if not squeeze.wanted(self._rate(worker)):
            return packets
        began = time.perf_counter()
        made = squeezed(packets)
        seconds = time.perf_counter() - began
        squeeze.measured(sum(p.nbytes for p in packets), sum(p.nbytes for p in made), seconds)
        return made

    def _rate(self, worker: PeerId) -> float | None:
        known = self._rates.get(worker)
        if known is None or time.monotonic() - known[0] > LOOK_S:
            known = self._rates[worker] = time.monotonic(), self._line.rate(worker)
        return known[1]

    def _answer(self, asked: Ask) -> BatchReply:
        try:
            made = self.make(asked.work)
            head, packets = pack(made)
            reply = BatchReply(asked.number, head, self._squeezed(asked.worker, packets))
        except Exception as error:  # whatever a person's dataset raises: the worker finds the same, and says so
            traceback.print_exc()
            why = error.line() if isinstance(error, RoadtrainError) else f"{type(error).__name__}: {error}"
            return BatchReply(asked.number, pack_failure(why), ())
        self.made += made.samples
        return reply

    def make(self, work: Work) -> Made:
        """What comes of `work`. Raises UsageError where its source is not here."""
        source = self._source(work.source)
        if source is None:
            raise UsageError(f"there is no {work.source} here")
        return make(source, work)
