"""What a session and its trainer want from whoever runs the fleet: views, first weights, and a word before each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from roadtrain.lease import Leases
from roadtrain.membership.messages import Finish, JoinRequest, Stats
from roadtrain.view import FragmentId, LinkState, PeerId, Place, View

FIRST_VIEW = 1
"""Number of the view that a run begins with."""


@dataclass(frozen=True, slots=True)
class FirstWeights:
    """Hashes of the weights that each worker built, by part of the model. Those of the first member count."""

    digests: Mapping[PeerId, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Joined:
    """The answer: the first view, where everybody is, and whose weights count."""

    view: View
    addresses: Mapping[PeerId, str]
    first: FirstWeights

    @property
    def late(self) -> bool:
        """Whether the run goes on already: its first view was another one."""
        return self.view.number > FIRST_VIEW


class Control(Protocol):
    """The coordinator, as a worker sees it. Nothing here is waited for while a step runs; it may be gone for good."""

    @property
    def me(self) -> PeerId:
        """The name of this worker; empty until it has joined."""
        ...

    @property
    def incarnation(self) -> int:
        """Grows with every process that comes under this name, and every time that it comes back."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether the run has ended for this worker."""
        ...

    def join(self, request: JoinRequest) -> Joined:
        """Come in. Waits for the first view with this worker; one that was taken for lost comes back as a newcomer.

        Raises RunFailed when it is refused, or the run ends before it began.
        """
        ...

    def on_view(self, call: Callable[[View, dict[PeerId, str]], None]) -> None:
        """Call `call` with every view from now on, on another thread."""
        ...

    def on_end(self, call: Callable[[str], None]) -> None:
        """Call `call`, on another thread, when the run is over while this worker still trains, with the reason."""
        ...

    def unmodified(self) -> None:
        """The script of this process was not written for roadtrain: it joins when it comes to its first step, if it ever does."""
        ...

    def warn(self, text: str) -> None:
        """The person should be told so, once, however many workers say it."""
        ...

    def observe(self, waits: Callable[[], bool]) -> None:
        """`waits` tells at any time whether the training of this worker waits for others. Another thread asks."""
        ...

    def holds(self, view: int, fragment: FragmentId, whole: bool, /) -> None:
        """In `view` this worker stands by for a fragment, and has its whole state now, or (not `whole`) has it no more."""
        ...

    def unreached(self, peer: PeerId, incarnation: int, /) -> None:
        """That process of another member has not been reached for long, and this worker waits."""
        ...

    def spoils(self, peer: PeerId, reason: str, /) -> None:
        """Nothing that another worker contributes to what is owned here can be used."""
        ...

    def links(self, states: Mapping[PeerId, LinkState], uplink: float | None, /) -> None:
        """How this worker is connected to the others has changed, or how much it can send, in bytes per second."""
        ...

    @property
    def leaves(self) -> bool:
        """Whether this worker was asked to go before the run is over."""
        ...

    def will_depart(self) -> None:
        """This worker looks at `leaves` between its steps, and says itself when it can go."""
        ...

    def depart(self) -> None:
        """This worker contributes nothing any more, and may go when others hold what it holds. Then the run is over for it."""
        ...

    def on_feeders(self, call: Callable[[Mapping[PeerId, Place]], None]) -> None:
        """Call `call` with the feeders that are there, now and whenever they change, on another thread."""
        ...

    def feeds(self, address: str) -> None:
        """This worker takes batches of feeders, which can dial it there (host:port; "" for nowhere)."""
        ...

    def feeder_differs(self, feeder: PeerId) -> None:
        """A feeder makes other batches than this worker would."""
        ...

    def bad_sample(self, index: int, why: str) -> None:
        """A sample could not be made, and was left out."""
        ...

    def may_step(self, step: int) -> bool:
        """Whether step number `step` (from 1) may begin. Waits while a stop is being agreed; False: stop before it."""
        ...

    @property
    def stop(self) -> int | None:
        """The step after which all stop, where that was agreed on."""
        ...

    def counted(self, size: int, batch: int, contributions: Sequence[tuple[PeerId, Leases]], /) -> None:
        """These contributions count: whose, and what each was computed on. `size`: samples of an epoch; `batch`: of a slice."""
        ...

    def evaluate(self, evaluation: str, chunks: int) -> tuple[int, ...] | None:
        """What this worker computes next of an evaluation, in so many chunks, that others may be at too: see
        `membership/evaluations.py`. None where there is nothing to compute: `figures` has all, or, if not, nobody answers."""
        ...

    def evaluated(self, evaluation: str, chunk: int, figures: bytes) -> None:
        """What this worker has found of one chunk."""
        ...

    def figures(self, evaluation: str) -> tuple[bytes, ...] | None:
        """What was found of every chunk of the evaluation that was asked for last, once all are in. Does not wait."""
        ...

    def log(self, record: dict[str, Any]) -> None:
        """One line of metrics."""
        ...

    def event(self, name: str, **details: Any) -> None:
        """Something happened that belongs into the run's events."""
        ...

    def is_first(self) -> bool:
        """Whether this worker is the first member of the current view: the one that saves for all."""
        ...

    def newer_view(self, after: int) -> View | None:
        """The newest view, if its number is above `after`. Does not wait."""
        ...

    def next_view(self, after: int, timeout_s: float) -> View:
        """The first view with a number above `after`. Raises TimeoutError when none comes in time, and RunFailed when the run
        ends, so that none will."""
        ...

    def meeting_point(self, view: View, mine: str | None) -> str:
        """host:port where the members of `view` meet for collectives. Its first member gives `mine`, the rest wait.

        The members may meet again in the same view; then the place is a new one.
        """
        ...

    def done(self, step: int, *, complete: bool, stats: Stats) -> None:
        """This worker has ended at `step`; `complete`: as far as it should."""
        ...

    def farewell(self, stats: Stats) -> None:
        """This process is about to end."""
        ...

    def await_end(self, linger_s: float) -> Finish | None:
        """After the last step: the order to finish (for one worker), or None when it is time to go."""
        ...

    def result(self, found: dict[str, Any]) -> None:
        """What the worker that finishes for all has found."""
        ...
