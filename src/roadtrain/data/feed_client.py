"""A worker's end of its feeders: a thread that talks to them, and a training thread that takes batches in turn."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from roadtrain.batches.consumer import Consumer
from roadtrain.batches.tree import same, unpack
from roadtrain.batches.work import Made, Work, encode_work
from roadtrain.data.line import FeedLine
from roadtrain.data.waiting import Waiting
from roadtrain.errors import DataFailed, PacketError, RunFailed
from roadtrain.message import BatchReply, BatchRequest, Envelope
from roadtrain.view import PeerId, Place

LOOK_S = 0.05
"""How often whoever waits for a batch looks whether there is another way to it."""


class FeedClient:
    """`line`: the worker's own, to its feeders. `start` begins. `waiting`: for batches that these alone have."""

    def __init__(
        self,
        line: FeedLine,
        differs: Callable[[PeerId], None] = lambda feeder: None,
        waiting: Waiting = Waiting(),  # noqa: B008  (it never changes)
    ) -> None:
        """`differs` is told of a feeder that makes other batches of the same work than this process."""
        self._line, self._differs, self._waiting = line, differs, waiting
        self._trusted: set[PeerId] = set()
        self._news = threading.Condition()
        self._numbers = itertools.count(1)
        self._consumers: dict[str, Consumer] = {}
        self._incarnations: dict[PeerId, int] = {}
        self._failure: RunFailed | None = None
        self._refused: dict[PeerId, str] = {}

    def start(self, me: PeerId, incarnation: int) -> None:
        """Be there for feeders, as `me`."""
        self._line.start(me, incarnation, self._take, self._broken)

    def close(self) -> None:
        """Leave them."""
        self._line.close()

    # --------------------------------------------------------------------------------------------- the other thread

    def _broken(self, error: BaseException) -> None:
        self.fail(f"the connections to the feeders broke: {type(error).__name__}: {error}")

    def fail(self, why: str) -> None:
        """Nothing comes any more. Any thread may call."""
        with self._news:
            self._failure = RunFailed(why)
            self._news.notify_all()

    def _take(self, envelope: Envelope) -> None:
        """A feeder has said something. Called on the line's thread."""
        message, feeder = envelope.message, envelope.source
        if not isinstance(message, BatchReply):
            return
        try:
            made: Made | None = unpack(message.head, message.packets, feeder)
        except PacketError as error:
            made = None
            self._refused[feeder] = error.message
        now = time.monotonic()
        with self._news:
            for consumer in self._consumers.values():
                if made is None:
                    consumer.refused(feeder, message.number, now)
                else:
                    consumer.arrived(feeder, message.number, made, now)
            self._news.notify_all()

    def see(self, places: Mapping[PeerId, Place]) -> None:
        """These feeders are there, and no others. Any thread but the line's may call."""
        self._line.meet(places)
        with self._news:
            self._incarnations = {feeder: place.incarnation for feeder, place in places.items()}
            for consumer in self._consumers.values():
                consumer.see(self._incarnations, time.monotonic())
            self._news.notify_all()

    def _say(self, feeder: PeerId, number: int, work: Work) -> None:
        self._line.say(feeder, BatchRequest(number, encode_work(work)))

    # ------------------------------------------------------------------------------------------ the training thread

    def take(self, source: str, upcoming: Callable[[int], Sequence[Work]], own: Callable[[Work], Made] | None) -> Made:
        """The batch of the first of `upcoming(n)`: the next n works of `source`, or as many as there are. Where no feeder has it
        in time, `own` makes it; without that it is waited for. Raises RunFailed when the connections are broken, and when it
        is waited for and nobody is there any more."""
        return self.take_any(source, upcoming, own, 0)[1]

    def take_any(
        self, source: str, upcoming: Callable[[int], Sequence[Work]], own: Callable[[Work], Made] | None, window: int
    ) -> tuple[Work, Made]:
        """The same of whichever of `upcoming(n)` is there first, and which that is: none is overtaken by more than `window`."""
        with self._news:
            consumer = self._consumer(source)
            consumer.want(upcoming(consumer.depth), time.monotonic())
            if consumer.here(window) is None:
                consumer.starved()
            elif window:
                consumer.hedge(time.monotonic())  # the first may hang while others come
        found = self._awaited(consumer, window, patient=own is None)
        if found is not None and (own is None or not (found[1].bad or found[1].by not in self._trusted)):
            return found
        assert own is not None, "it was waited for"
        with self._news:  # at the last of the choices feeders are least likely to be
            work, made = (consumer.choices(window)[-1], None) if found is None else found
        mine = own(work)
        if made is None and mine.bad:  # what it is made of may be at the feeders alone
            found = self._awaited(consumer, window, patient=True, alone=False)
            if found is not None:
                mine = mine if found[0] == work else own(found[0])
                work, made = found
        with self._news:
            consumer.take(work)
        return work, mine if made is None else self._judged(consumer, made, mine)

    def _awaited(
        self, consumer: Consumer, window: int, *, patient: bool, alone: bool = True
    ) -> tuple[Work, Made] | None:
        """The first batch that has come of those that may be next; not `patient`: None when none comes in time. Not `alone`: None
        when there is no feeder any more."""
        with self._news:
            began = time.monotonic()
            wait = self._waiting.begin(began)
            while (work := consumer.here(window)) is None:
                now = time.monotonic()
                if not patient and (not consumer.feeders or now - began > consumer.patience_s):
                    return None
                if self._failure is not None:
                    raise self._failure
                if not (alone or consumer.feeders):
                    return None
                self._look_why(consumer)
                wait.look(consumer.feeders, now)
                consumer.hedge(now)
                self._news.wait(LOOK_S)
            made = consumer.take(work)
            assert made is not None, "it is here"
            return work, made

    def _look_why(self, consumer: Consumer) -> None:
        """Raises DataFailed where all feeders that there are have said that they cannot make it."""
        if self._incarnations and not consumer.feeders:
            said = [
                f"{feeder} cannot make a batch: {self._refused[feeder]}"
                for feeder in self._incarnations
                if feeder in self._refused
            ]
            if said:
                raise DataFailed(said[0])

    def _judged(self, consumer: Consumer, made: Made, mine: Made) -> Made:
        """The first batch of a feeder, or one with samples that it cannot make, beside what this process makes of the same work:
        another file, or another release of something that is imported, would go unseen for ever."""
        if len(mine.bad) > len(made.bad):  # what it is made of is not all here
            self._trusted.add(made.by)
            return made
        if same(made, mine):
            self._trusted.add(made.by)
            return made
        with self._news:
            consumer.distrust(made.by, time.monotonic())
        self._differs(made.by)
        return mine

    def _consumer(self, source: str) -> Consumer:
        known = self._consumers.get(source)
        if known is None:
            known = self._consumers[source] = Consumer(self._say, self._numbers)
            known.see(self._incarnations, time.monotonic())
        return known
