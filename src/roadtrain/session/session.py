"""A session: the agreement of one worker with the others, apart from the loop that computes.

It carries out the orders of the worker machine (`sync/worker.py`) on real tensors. It knows neither a model's loss nor where its
data comes from: whoever has the loop says when a step begins, what was computed, and when the last step is over.

| state | steps may be computed | goes on to |
|---|---|---|
| TRAINING | yes | FINISHING by `finish`, CLOSED by `close` |
| FINISHING | no: it waits until nobody contributes any more | FINISHED, CLOSED |
| FINISHED | no: all hold what was agreed on | CLOSED |
| CLOSED | no: it has left | |
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from enum import Enum
from typing import Any, assert_never

from torch import Tensor

from roadtrain.errors import RunFailed, TakenForLost
from roadtrain.message import Leave, Left, Snapshot
from roadtrain.session.entrance import Arrival, Asked, Entrance, Given
from roadtrain.session.host_copies import Ready, done
from roadtrain.session.payload import MeanGradients, Payload
from roadtrain.session.stats import WorkerStats
from roadtrain.session.sync_thread import SyncClient
from roadtrain.sync.fragment import Fragment
from roadtrain.sync.worker import Await, Contribution, Finish, Give, Order, StartOver, Worker
from roadtrain.view import FragmentId, PeerId, View


class State(Enum):
    """Where a session is."""

    TRAINING = "training"
    FINISHING = "finishing"
    FINISHED = "finished"
    CLOSED = "closed"


FOLLOWS: dict[State, tuple[State, ...]] = {
    State.TRAINING: (State.FINISHING, State.CLOSED),
    State.FINISHING: (State.FINISHED, State.CLOSED),
    State.FINISHED: (State.CLOSED,),
    State.CLOSED: (),
}
"""The states that may follow each."""


class Session:
    """One worker's agreement, joined. `fragments`: each with the host's memory for what is contributed of it. `forget_moments`
    drops the state of the local optimizer, where there is one. `others`: fragments that this worker has no part in."""

    def __init__(
        self,
        client: SyncClient,
        rules: Worker,
        fragments: Sequence[tuple[Fragment, Tensor]],
        payload: Payload,
        stats: WorkerStats,
        entrance: Entrance,
        forget_moments: Callable[[], None] = lambda: None,
        others: Collection[FragmentId] = (),
    ) -> None:
        self.client, self.rules, self.payload, self.stats = client, rules, payload, stats
        self._entrance, self._averages = entrance, isinstance(payload, MeanGradients)
        self.agreed: Callable[[], None] = lambda: None
        """Is called when all is in that this worker will ever have contributed."""
        self.state = State.TRAINING
        self.lr_of: Callable[[int], float] = lambda group: 0.0
        """The learning rate that goes with a contribution of a parameter group; 0 where the owner keeps the schedule."""
        self._fragments, self._others = fragments, frozenset(others)
        self._forget_moments = forget_moments
        self._copied: dict[int, Ready] = {}
        self._loads = True
        self._finite = True

    @property
    def step(self) -> int:
        """Local steps that the model stands for."""
        return self.rules.step

    # --------------------------------------------------------------------------------------------------- steps

    def enter(self, arrival: Arrival | None = None) -> int:
        """A newcomer takes over the state that the run has; returns the step that it stands for. `arrival`: with what another
        worker gave; where every worker steps by itself, that is the state.

        Raises TakenForLost where the others have gone on since it was given.
        """
        if arrival is None or not self._averages:
            self._carry_out(self.rules.enter())
            return self.rules.step
        self.client.enter()
        self._loads = (
            False  # what owners have is older than what this worker was given, where a worker was alone for a while
        )
        self._carry_out(self.rules.enter(arrival.step))
        self._loads = True
        if self.rules.versions != {arrival.version}:
            raise TakenForLost("the others went on while this worker was given their state")
        arrival.is_in()
        return self.rules.step

    @property
    def asked(self) -> bool:
        """Whether a newcomer waits for what this worker holds (`admit`)."""
        return self._entrance.asked

    def close_entrance(self) -> None:
        """Newcomers get nothing from this worker any more: it trains no more."""
        self._entrance.close()

    def admit(self, state: Callable[[Asked], Given]) -> None:
        """Between two steps: give newcomers `state`. Where every worker steps by itself this one waits until they take part."""
        with self.stats.timed("sync_wait_s"):
            self._entrance.serve(state, hold=self._averages)

    def begin(self) -> None:
        """A step is about to be computed."""
        self._expect(State.TRAINING, "no step can follow")
        if self._mean_of_one:
            return
        self._carry_out(self.rules.begin(alone=self.client.owns_everything()))

    def computed(self, samples: int) -> None:
        """A batch of so many samples is in what will be contributed next."""
        self.rules.computed(samples)

    @property
    def gives_early(self) -> bool:
        """Whether fragments may be contributed while the step is still in its backward pass."""
        return self.rules.gives_early and not self._mean_of_one

    @property
    def _mean_of_one(self) -> bool:
        """Whether gradients would come back as they are, and nothing is under way."""
        return self._averages and self.client.is_alone() and not self.rules.waits

    def give_early(self, fragment: int) -> None:
        """Contribute a fragment amid backward."""
        contribution = self.rules.early(fragment)
        self._contribute(contribution, self._copy(contribution))

    def stepped(self) -> None:
        """A step of the run is over: agree, if it closes a period. Waits as the strategy demands."""
        if self._mean_of_one:
            self.rules.skip()
            if self.rules.idle:
                self.account()
            return
        if not self._finite:  # what was given early
            self._not_finite()
        self._carry_out(self.rules.stepped())
        self.payload.complete()

    def wait(self) -> None:
        """There is nothing to compute, and not all is done: wait until there is, or take part in what the others agree on."""
        self._expect(State.TRAINING, "no step can follow")
        if self._mean_of_one:
            self.account()
            return
        self._carry_out(self.rules.wait())
        self.payload.complete()

    def account(self) -> None:
        """Have it known what this worker has computed alone, and be given more."""
        if self.rules.work is not None and self._mean_of_one:
            self.rules.assign(self.client.worked(*self.rules.computed_alone()))

    def finish(self, digest: Callable[[], int] = lambda: 0) -> list[Left]:
        """No further step will come: agree on what has not been shared, and wait until nobody has more. `agreed` is called before
        that wait.

        `digest`: of the model, where replicas step by themselves. Returns what each fragment ended with.
        """
        self._expect(State.TRAINING, "it has finished")
        self.account()
        self._enter(State.FINISHING)
        self.close_entrance()
        left: list[Left] = []

        def leave(leaves: Sequence[tuple[FragmentId, int, int]]) -> None:
            self.agreed()
            left.extend(self._leave(leaves, digest()))

        self._carry_out(self.rules.finish(), leave)
        self.client.settle_accounts()
        self._enter(State.FINISHED)
        return left

    def close(self) -> None:
        """Leave the others."""
        if self.state is not State.CLOSED:
            self._enter(State.CLOSED)
            self.client.flush(2.0)
            self.client.close()

    def _expect(self, state: State, why: str) -> None:
        if self.state is not state:
            raise RunFailed(f"the agreement with the other workers is {self.state.value}: {why}")

    def _enter(self, state: State) -> None:
        assert state in FOLLOWS[self.state], f"{state} does not follow {self.state}"
        self.state = state

    # -------------------------------------------------------------------------------------------------- orders

    def _carry_out(
        self,
        orders: Iterable[Order],
        leave: Callable[[Sequence[tuple[FragmentId, int, int]]], None] = lambda leaves: None,
    ) -> None:
        for order in orders:
            match order:
                case Give(contributions):
                    copies = [self._copy(contribution) for contribution in contributions]
                    for contribution, copied in zip(contributions, copies, strict=True):
                        self._contribute(contribution, copied)
                    if not self._finite:
                        self._not_finite()
                case Await(fragments, mix):
                    self._load(fragments, mix)
                case StartOver(fragments):
                    self._forget_moments()
                    self.payload.put_back(fragments)
                case Finish(leaves):
                    leave(leaves)
                case _:
                    assert_never(order)

    def _not_finite(self) -> None:
        self._finite = True
        self.rules.not_finite()

    def _copy(self, what: Contribution) -> Ready:
        """Begin to copy what it takes to the host."""
        return self.payload.copy(what.fragment, self._fragments[what.fragment][1]) if what.samples else done

    def _contribute(self, what: Contribution, copied: Ready) -> None:
        fragment, value = self._fragments[what.fragment]
        if not what.samples or what.fragment in self._others:
            self.client.abstain(what)
            return
        self._copied[what.fragment] = copied
        if self.payload.looks or fragment.buffers:  # buffers are changed in place by the next forward
            copied()
        self._finite &= self.payload.put(what.fragment, value)
        self.client.contribute(what, value, copied, what.lr or self.lr_of(fragment.group))

    def _load(self, fragments: Sequence[FragmentId], mix: float) -> None:
        """Take up each state as it comes. Raises RunFailed when one cannot come any more."""
        for install in self.client.arrivals(fragments):
            self._copied.pop(install.fragment, done)()  # a round may have closed without this worker's
            if self._averages and self.rules.misses(install):
                raise TakenForLost("the others went on without this worker")
            value = self.client.buffers.install(install.fragment, install.packet, install.full, install.version)
            if self._loads:
                self.payload.load(install.fragment, value, mix)
            self.rules.loaded(install)
            self.stats.staleness[install.staleness] += 1
            self.stats.lead_max = max(self.stats.lead_max, install.lead)

    def _leave(self, leaves: Sequence[tuple[FragmentId, int, int]], digest: int) -> list[Left]:
        said = [Leave(fragment, clock, version, digest) for fragment, clock, version in leaves]
        left = self.client.leave(said)
        for each in left:
            if each.packet is not None and not digest:
                value = self.client.buffers.install(each.fragment, each.packet, True, each.version)
                self.payload.load(each.fragment, value, 0.0)
        return left

    def settle(self) -> None:
        """Take up every state that is still under way, so that a checkpoint holds it."""
        self._carry_out(self.rules.settle())
        self.payload.complete()

    # ---------------------------------------------------------------------------------------------------- state

    def collect(self, only: FragmentId | None = None) -> list[Snapshot]:
        """A snapshot of every fragment from its owner; or of `only` one."""
        self.account()
        return self.client.collect(only)

    def members(self) -> tuple[PeerId, ...]:
        """Who takes part by now."""
        return self.client.peer.view.peers

    def view_changed(self, view: View, addresses: dict[PeerId, str]) -> None:
        """The coordinator announced a view. Any thread may say so."""
        self.client.view(view, addresses)

    def local_state(self) -> dict[str, Any]:
        """What only this worker knows of the agreement, for a checkpoint: also what it has trained since the last one."""
        return {
            "residual": self.client.buffers.residuals(),
            "balance": self.rules.speedometer.state(),
            "progress": self.rules.state(),
            "model": self.payload.ahead() if self.rules.samples else {},
        }

    def load_local_state(self, state: dict[str, Any]) -> None:
        """Go on from what `local_state` gave. What was trained since an agreement counts on top of that one alone."""
        self.client.buffers.load_residuals(state.get("residual", {}))
        self.rules.speedometer.load(state.get("balance", {}))
        progress = state.get("progress")
        if progress is None or int(progress["agreed"]) != self.rules.agreed:
            return
        if self.payload.load_ahead(state.get("model", {})):
            self.rules.load(progress)

    def agreed_values(self) -> dict[str, Tensor]:
        """What all agreed on last, by name, on the CPU; empty where this worker never trains beyond that by itself."""
        return self.payload.agreed()

    def held_bytes(self) -> int:
        """Bytes that are held for the others: as owner and standby, and to repeat what owners commit."""
        return self.client.state_bytes()

    def carried_bytes(self) -> tuple[int, int]:
        """Bytes (sent, received) so far."""
        return self.client.meter.sent, self.client.meter.received

    def held(self, fragment: int) -> Tensor | None:
        """The agreed values of a fragment as this worker last received them, where they are kept."""
        return self.client.buffers.held[fragment]
