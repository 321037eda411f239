"""A worker's end of the control channel, sans-IO: what it knows of the run, and what is to be said.

| the worker is | that is | until |
|---|---|---|
| INTRODUCED | connected or not; it has said Join, or not yet | Accepted |
| ACCEPTED | it has a name; the run may not have begun | the first view with it |
| MEMBER | it is in the view | a view without it, or Shutdown |
| EVICTED | it was taken for lost; it may come back as a newcomer (`again`) | a view with it |
| OVER | the run has ended, or cannot be understood | |
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import assert_never

import msgspec

from roadtrain.errors import PeerError
from roadtrain.membership.channel import Channel
from roadtrain.membership.frames import PROTOCOL, Beat, FromCoordinator, Hello, Up, Welcome
from roadtrain.membership.messages import (
    Accepted,
    Done,
    Evaluate,
    Evaluating,
    Feeders,
    Feeds,
    Figures,
    Finish,
    Freeze,
    FromWorker,
    Frozen,
    Goodbye,
    Holds,
    Join,
    Leave,
    Links,
    Metrics,
    NewView,
    Refused,
    Rendezvous,
    Result,
    RunSpec,
    Shutdown,
    StopAt,
    TorchStore,
    ToWorker,
)
from roadtrain.view import PeerId, Place


class Standing(Enum):
    """How a worker stands to the run."""

    INTRODUCED = "introduced"
    ACCEPTED = "accepted"
    MEMBER = "member"
    EVICTED = "evicted"
    OVER = "over"


class ControlClient:
    """What one process knows of its run. `begun`: the step that it is in, or was last; `done`: steps it has done; `waits`: its
    training waits for others. `view`: the newest one with this worker in it, `told`: the newest of all; `known`: as `view`, also
    after it was taken for lost: who may be the coordinator now. `led`: the coordinator that it is connected to, or was last,
    decides; `leaves`: it wants to go before the run is over; `reason`: why it is over. `evaluation`: the one that it has asked
    for last; `share`: what it is to compute of it, `figures`: what all have found, once it was told. `feeders`: who makes batches
    for it. `store`: where process groups of a script meet, once that was told."""

    def __init__(self, process: str, version: str) -> None:
        self.process = process
        self.standing = Standing.INTRODUCED
        self.me: PeerId = ""
        self.incarnation = 0
        self.spec: RunSpec | None = None
        self.view: NewView | None = None
        self.told: NewView | None = None
        self.known: NewView | None = None
        self.stop: int | None = None
        self.hold = False
        self.begun = self.done = 0
        self.waits = self.led = self.leaves = False
        self.reason = ""
        self.rendezvous: dict[tuple[int, int], str] = {}
        self.store = ""
        self.feeders: Mapping[PeerId, Place] = {}
        self.evaluation = ""
        self.share: tuple[int, ...] | None = None
        self.figures: tuple[bytes, ...] | None = None
        self._version = version
        self._channel: Channel[FromWorker] = Channel()
        self._conversation = 0
        self._join: Join | None = None
        self._facts: dict[tuple[type[FromWorker], int], FromWorker] = {}
        """What it has said and still holds: a coordinator that knows nothing of it is told again."""
        self._finish: Finish | None = None
        self._ordered = False
        self._echo = (0.0, 0.0)

    # ------------------------------------------------------------------------------------------------ connections

    def hello(self) -> Hello:
        """First on every connection."""
        return Hello(PROTOCOL, self._version, self.process, self._channel.heard, self._conversation)

    def welcome(self, frame: FromCoordinator) -> bool:
        """The answer to it: whether that coordinator decides (`led`). Raises PeerError when it is none, or of another version."""
        if not isinstance(frame, Welcome):
            raise PeerError(f"{type(frame).__name__} before Welcome")
        if frame.protocol != PROTOCOL:
            raise PeerError(f"the coordinator runs roadtrain {frame.version}, this worker {self._version}")
        self._channel.connected(frame.heard, fresh=frame.fresh)
        if frame.fresh:
            self._conversation += 1
            self._tell_all()
        self.led = frame.leads
        return self.led

    def _tell_all(self) -> None:
        """This coordinator knows nothing of what was said to it, or to the one before. First of all who this is."""
        pending = list(self._channel.pending())
        if self._join is None or self._join in pending:
            return
        for fact in reversed(self._facts.values()):
            if fact not in pending:
                self._channel.say_first(fact)
        told = self.view if self.view is None or self.told is None or not self.told.addresses else self.told
        incarnation = 0 if told is None else self.incarnation
        self._channel.say_first(msgspec.structs.replace(self._join, incarnation=incarnation, told=told))

    def outgoing(self) -> list[Up]:
        """What is to be written on the present connection."""
        return [Up(number, self._channel.heard, message) for number, message in self._channel.outgoing()]

    def beat(self, now: float) -> Beat:
        """The heartbeat."""
        echo, heard_s = self._echo
        return Beat(self._channel.heard, now, echo, now - heard_s if echo else 0.0, self.done, self.waits)

    @property
    def idle(self) -> bool:
        """Whether the coordinator has heard everything."""
        return self._channel.idle

    # ----------------------------------------------------------------------------------------------------- words

    def say(self, message: FromWorker) -> None:
        """Let the coordinator know. Figures may be dropped where it has been away for long."""
        match message:
            case Holds():
                self._facts[Holds, message.fragment] = message
            case Rendezvous():
                self._facts[Rendezvous, message.region] = message
            case Leave() | Links() | Feeds() | Frozen() | Done() | Result() | Goodbye():
                self._facts[type(message), 0] = message
            case _:
                pass
        self._channel.say(message, needed=not isinstance(message, Metrics | Links))

    def introduce(self, join: Join) -> None:
        """Ask to take part; also again, after having been evicted. A run that has ended meanwhile stays so."""
        if self.standing is Standing.OVER:
            return
        self._join = join
        self._facts.clear()
        self.standing, self.view, self.me, self.incarnation = Standing.INTRODUCED, None, "", 0
        self.told, self.hold, self.stop, self.done, self.begun = None, False, None, 0, 0
        self.say(join)

    def ask_to_stop(self) -> None:
        """A person wants the run to end: hold, as if the coordinator had said so already, and all are asked by it to."""
        if self.standing is Standing.MEMBER and not self.hold:
            self.hold = True
            self.say(Frozen(self.begun))

    def evaluate(self, evaluation: str, chunks: int) -> None:
        """Ask what to compute of an evaluation."""
        self.evaluation, self.share, self.figures = evaluation, None, None
        self.say(Evaluating(evaluation, chunks))

    @property
    def answered(self) -> bool:
        """Whether the coordinator has said what to compute, or that nothing is left to."""
        return self.share is not None or self.figures is not None

    def take_finish(self) -> Finish | None:
        """The order to finish, once."""
        order, self._finish = self._finish, None
        self._ordered = self._ordered or order is not None
        return order

    @property
    def asked_to_finish(self) -> bool:
        """Whether `take_finish` has something to give."""
        return self._finish is not None

    # ----------------------------------------------------------------------------------------------------- input

    def receive(self, frame: FromCoordinator, now: float) -> None:
        """A frame after Welcome. Raises PeerError when the connection is to be closed."""
        match frame:
            case Welcome():
                raise PeerError("a second Welcome")
            case Beat():
                self._channel.acknowledged(frame.heard)
                self._echo = frame.at, now
            case _:
                self._channel.acknowledged(frame.heard)
                if self._channel.take(frame.number):
                    self._hear(frame.message)

    def _hear(
        self,
        message: ToWorker,
    ) -> None:
        match message:
            case RunSpec():
                self.spec = message
            case Accepted(worker, incarnation):
                self.me, self.incarnation = worker, incarnation
                if self.standing is Standing.INTRODUCED:
                    self.standing = Standing.ACCEPTED
            case NewView():
                self._take_view(message)
            case Rendezvous(view, region, address):
                self.rendezvous[view, region] = address
            case TorchStore(address):
                self.store = address
            case Freeze():
                self.hold = True
                self.say(Frozen(self.begun))
            case StopAt(step):
                self.stop = step
            case Feeders(feeders):
                self.feeders = feeders
            case Finish():
                self._finish = None if self._ordered else message  # a coordinator that was started again repeats it
            case Evaluate(evaluation, chunks):
                self.share = chunks if evaluation == self.evaluation else self.share
            case Figures(evaluation, figures):
                self.figures = figures if evaluation == self.evaluation else self.figures
            case Shutdown(reason) | Refused(reason):
                self.end(reason)
            case _:
                assert_never(message)

    def _take_view(self, told: NewView) -> None:
        """Views are announced again to whoever may not have heard them."""
        inside = bool(told.addresses)
        before = self.view.view.number if self.view is not None else 0
        self.told, self.led = told, True
        if not inside:
            if self.standing is Standing.MEMBER:
                self.standing = Standing.EVICTED
        elif told.view.number > before:
            self.view = self.known = told
            self.standing = Standing.MEMBER

    def end(self, reason: str) -> None:
        """The run is over for this worker."""
        if self.standing is not Standing.OVER:
            self.standing, self.reason = Standing.OVER, reason
