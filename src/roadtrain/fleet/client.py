"""The coordinator, as a worker sees it: fulfils the trainer's `Control`. When it is gone, training goes on."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from roadtrain.errors import Interrupted, RunFailed
from roadtrain.fleet.line import Line
from roadtrain.fleet.succession import Succession
from roadtrain.lease import Leases
from roadtrain.membership.client import ControlClient, Standing
from roadtrain.membership.messages import (
    BadSample,
    Counted,
    Done,
    Evaluated,
    FeederDiffers,
    Feeds,
    Finish,
    FromWorker,
    Goodbye,
    Happened,
    Holds,
    Join,
    JoinRequest,
    Leave,
    Links,
    Metrics,
    NewView,
    Rendezvous,
    Result,
    RunSpec,
    Spoils,
    Stats,
    Unmodified,
    Unreached,
    Warned,
)
from roadtrain.session.control import FirstWeights, Joined
from roadtrain.version import VERSION
from roadtrain.view import FragmentId, LinkState, PeerId, Place, View
from roadtrain.wire.credentials import Credentials

BEGIN_S = 15.0
"""Before the run has begun nobody can take the coordinator's place: so long it may be away."""
ANSWER_S = 5.0
"""Longest wait for what a coordinator has at hand."""
Waiting = Callable[[str, float], bool]
TOLD = ("step", "loss")
"""Figures of a metrics record that have a place of their own."""


def no_word(whom: str, seconds: float) -> bool:
    """Waits as long as need be, and says nothing."""
    return True


class Client:
    """The coordinator, as a worker sees it. `open` connects."""

    def __init__(self, succession: Succession, credentials: Credentials, slot: int, waiting: Waiting) -> None:
        self.region = 0
        self._slot, self._waiting = slot, waiting
        self._state = ControlClient(secrets.token_hex(16), VERSION)
        self._succession, self._heir = succession, succession.address
        self._line = Line(succession, credentials, self._state)
        self._news = self._line.news
        self._line.heard = self._heard
        self._seen: NewView | None = None
        self._departs = False
        self._begun: Callable[[], None] = lambda: None
        self._logged: Callable[[int, float | None], None] = lambda step, loss: None
        self._succeeded: Callable[[Callable[[], None]], None] = lambda ask: None
        self._on_view: Callable[[View, dict[PeerId, str]], None] | None = None
        self._feeders: Mapping[PeerId, Place] = self._state.feeders
        self._on_feeders: Callable[[Mapping[PeerId, Place]], None] = lambda places: None
        self._on_end: Callable[[str], None] | None = None

    @classmethod
    def open(
        cls,
        succession: Succession,
        credentials: Credentials,
        connect_s: float,
        slot: int = 0,
        waiting: Waiting = no_word,
    ) -> Client:
        """Connect to where `succession` finds the coordinator, and hear what the run is. `waiting` is told now and then for whom
        it waits and for how many seconds; where it says no, the wait is over.

        Raises RunFailed when there is no coordinator within `connect_s`, or it wants nothing of this process.
        """
        client = cls(succession, credentials, slot, waiting)
        client._line.start()
        began = time.monotonic()
        with client._news:
            while client._state.spec is None and not client.is_over:
                waited = time.monotonic() - began
                if not waiting("the coordinator", waited):
                    client._line.hang_up()
                    raise Interrupted("stopped before there was a coordinator")
                if waited > connect_s:
                    client._line.hang_up()
                    hint = "is it running, is the token right?"
                    raise RunFailed(f"no coordinator at {succession.url} within {waited:.0f} s", hint)
                client._news.wait(0.2)
        return client

    # ------------------------------------------------------------------------------------------------- words

    def _heard(self) -> None:
        """Something has changed: tell whoever wants to know. The lock is held."""
        state = self._state
        if state.told is not None and state.told is not self._seen:
            self._seen = state.told
            self._succession.told(state.told.heirs)
            if self._on_view is not None:
                self._on_view(self._seen.view, self._seen.addresses)
        if state.feeders is not self._feeders:
            self._feeders = state.feeders
            self._on_feeders(self._feeders)
        if state.standing is Standing.OVER and self._on_end is not None:
            self._on_end(state.reason or "the run has ended")
            self._on_end = None
        self._news.notify_all()

    def say(self, message: FromWorker) -> None:
        """Let the coordinator know, now or when it is back."""
        with self._news:
            self._state.say(message)
        self._line.rouse()

    @property
    def me(self) -> PeerId:
        """See `Control`."""
        return self._state.me

    @property
    def incarnation(self) -> int:
        """See `Control`."""
        return self._state.incarnation

    @property
    def is_over(self) -> bool:
        """Whether the run has ended for this worker."""
        return self._line.is_over

    @property
    def away(self) -> bool:
        """Whether the coordinator cannot be reached."""
        return self._line.away

    @property
    def _ended(self) -> RunFailed:
        return RunFailed(self._state.reason or "the run ended before it began")

    # ------------------------------------------------------------------------------------------------ joining

    def spec(self) -> RunSpec:
        """What the run is: its plan, its folder, what to resume. Raises RunFailed when it has ended already."""
        if self._state.spec is None:
            raise self._ended
        return self._state.spec

    def join(self, request: JoinRequest) -> Joined:
        """See `Control`."""
        said = Join(self._state.process, self._slot, os.getpid(), socket.gethostname(), request, heir=self._heir)
        with self._news:
            self._state.introduce(said)
            self._line.rouse()
            began = there_at = time.monotonic()
            while self._state.view is None and not self.is_over:
                now = time.monotonic()
                there_at = there_at if self.away else now
                if now - there_at > BEGIN_S:
                    raise RunFailed(f"the coordinator has been away for {BEGIN_S:.0f} s, and the run had not begun")
                if not self._waiting("the other workers", now - began):
                    raise Interrupted("stopped before the run had begun")
                self._news.wait(0.2)
            view = self._state.view
            if view is None or self.is_over:
                raise self._ended
            self._begun()
            return Joined(view.view, dict(view.addresses), FirstWeights(view.first))

    def leave(self) -> None:
        """Go before the run is over, when others hold what this worker holds. It is over for it then."""
        with self._news:
            if self._state.view is None:
                self._state.end("it leaves")
            elif not (self._state.leaves or self._departs):
                self._state.say(Leave())
            self._state.leaves = True
            self._heard()
        self._line.rouse()

    def will_depart(self) -> None:
        """See `Control`."""
        self._departs = True

    def depart(self) -> None:
        """See `Control`."""
        self.say(Leave())

    @property
    def leaves(self) -> bool:
        """Whether it was asked to."""
        return self._state.leaves

    def on_begin(self, call: Callable[[], None]) -> None:
        """Call `call` when this worker is in the run."""
        self._begun = call

    def on_log(self, call: Callable[[int, float | None], None]) -> None:
        """Call `call` with the step and the loss, where there is one, of every line of metrics."""
        self._logged = call

    def on_succession(self, call: Callable[[Callable[[], None]], None]) -> None:
        """Call `call`, before each step and on its thread, once another coordinator has taken the first one's place: with what
        asks that to stop the run."""
        self._succeeded = call

    def on_view(self, call: Callable[[View, dict[PeerId, str]], None]) -> None:
        """See `Control`; also with the current view, if it is not the first."""
        with self._news:
            self._on_view = call
            told = self._state.told
            if told is not None and told.view.number > 1:
                call(told.view, told.addresses)

    def on_end(self, call: Callable[[str], None]) -> None:
        """See `Control`."""
        with self._news:
            self._on_end = call
            self._heard()

    def on_feeders(self, call: Callable[[Mapping[PeerId, Place]], None]) -> None:
        """See `Control`."""
        with self._news:
            self._on_feeders = call
            if self._feeders:
                call(self._feeders)

    def feeds(self, address: str) -> None:
        """See `Control`."""
        self.say(Feeds(address))

    def feeder_differs(self, feeder: PeerId) -> None:
        """See `Control`."""
        self.say(FeederDiffers(feeder))

    def bad_sample(self, index: int, why: str) -> None:
        """See `Control`."""
        self.say(BadSample(index, why))

    def unmodified(self) -> None:
        """See `Control`."""
        self.say(Unmodified())

    def warn(self, text: str) -> None:
        """See `Control`."""
        self.say(Warned(text))

    def observe(self, waits: Callable[[], bool]) -> None:
        """See `Control`."""
        self._line.waits = waits

    # ------------------------------------------------------------------------------------- the trainer's Control

    def may_step(self, step: int) -> bool:
        """See `Control`."""
        state = self._state
        if self._line.succeeded:
            self._succeeded(self._line.ask_to_stop)
        with self._news:
            self._news.wait_for(lambda: not state.hold or state.stop is not None or self.is_over or self.away)
            if self.is_over or (state.stop is not None and step > state.stop):
                return False
            state.begun, state.done = step, step - 1
            return True

    @property
    def stop(self) -> int | None:
        """See `Control`."""
        return self._state.stop

    def counted(self, size: int, batch: int, contributions: Sequence[tuple[PeerId, Leases]], /) -> None:
        """See `Control`."""
        self.say(Counted(size, batch, tuple(contributions)))

    def evaluate(self, evaluation: str, chunks: int) -> tuple[int, ...] | None:
        """See `Control`."""
        state = self._state
        with self._news:
            state.evaluate(evaluation, chunks)
            self._line.rouse()
            self._news.wait_for(lambda: state.answered or self.is_over or self.away, timeout=ANSWER_S)
            return None if state.figures is not None else state.share

    def evaluated(self, evaluation: str, chunk: int, figures: bytes) -> None:
        """See `Control`."""
        self.say(Evaluated(evaluation, chunk, figures))

    def figures(self, evaluation: str) -> tuple[bytes, ...] | None:
        """See `Control`."""
        return self._state.figures if evaluation == self._state.evaluation else None

    def log(self, record: dict[str, Any]) -> None:
        """See `Control`."""
        more = {name: value for name, value in record.items() if name not in TOLD}
        self._state.done = int(record["step"])
        self._logged(self._state.done, record["loss"])
        self.say(Metrics(self._state.done, record["loss"], more))

    def event(self, name: str, **details: Any) -> None:
        """See `Control`."""
        self.say(Happened(name, details))

    def holds(self, view: int, fragment: FragmentId, whole: bool, /) -> None:
        """See `Control`."""
        self.say(Holds(view, fragment, whole))

    def unreached(self, peer: PeerId, incarnation: int, /) -> None:
        """See `Control`."""
        self.say(Unreached(peer, incarnation))

    def spoils(self, peer: PeerId, reason: str, /) -> None:
        """See `Control`."""
        self.say(Spoils(peer, reason))

    def links(self, states: Mapping[PeerId, LinkState], uplink: float | None, /) -> None:
        """See `Control`."""
        self.say(Links(dict(states), uplink))

    def is_first(self) -> bool:
        """See `Control`."""
        view = self._state.view
        return view is not None and view.view.peers[:1] == (self.me,)

    def newer_view(self, after: int) -> View | None:
        """See `Control`."""
        told = self._state.told
        return told.view if told is not None and told.view.number > after else None

    def next_view(self, after: int, timeout_s: float) -> View:
        """See `Control`."""
        with self._news:
            self._news.wait_for(lambda: self.is_over or self.newer_view(after), timeout=timeout_s)
            found = self.newer_view(after)
            if found is None and self.is_over:
                raise RunFailed(self._state.reason or "the run has ended")
            if found is None:
                raise TimeoutError(f"no view after number {after}")
            return found

    def store(self, timeout_s: float) -> str:
        """Where (host:port) process groups of the script meet, "" where nobody says so in time."""
        with self._news:
            self._news.wait_for(lambda: self._state.store or self.is_over, timeout=timeout_s)
            return self._state.store

    def await_over(self) -> None:
        """Until the run is over, or the coordinator is gone."""
        with self._news:
            while not (self.is_over or self.away):
                self._news.wait(0.2)

    def meeting_point(self, view: View, mine: str | None) -> str:
        """See `Control`."""
        if mine is not None:
            self.say(Rendezvous(view.number, self.region, mine))
            return mine
        place, known = (view.number, self.region), self._state.rendezvous
        with self._news:
            self._news.wait_for(lambda: place in known or self.newer_view(view.number), timeout=30.0)
            if place not in known:
                raise RuntimeError("the first member of the view did not say where to meet")
            return known.pop(place)  # a second meeting of the same members has a place of its own

    # ------------------------------------------------------------------------------------------------- the end

    def await_end(self, linger_s: float) -> Finish | None:
        """See `Control`.

        Without a coordinator the first member finishes on its own, and the others serve their state for `linger_s`.
        """
        gone_since = time.monotonic()
        with self._news:
            while not (self.is_over or self._state.asked_to_finish):
                self._news.wait(0.2)
                if not self.away:
                    gone_since = time.monotonic()
                if time.monotonic() - gone_since > linger_s / 3 and self.is_first():
                    return Finish({}, True)
                if time.monotonic() - gone_since > linger_s:
                    return None
            return self._state.take_finish()

    def done(self, step: int, *, complete: bool, stats: Stats) -> None:
        """See `Control`."""
        self._on_end = None  # what follows is its own end
        self.say(Done(step, complete, stats))

    def farewell(self, stats: Stats) -> None:
        """See `Control`."""
        self.say(Goodbye(stats))

    def result(self, found: dict[str, Any]) -> None:
        """See `Control`."""
        self.say(Result(found))

    def close(self) -> None:
        """Let the coordinator hear what is left, and hang up."""
        end = time.monotonic() + 2.0
        while not (self._state.idle or self.away) and time.monotonic() < end:
            time.sleep(0.01)
        self._line.hang_up()
