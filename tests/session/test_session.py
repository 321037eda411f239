"""A session: its states, the orders it carries out, and what ends the wait of whoever trains."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from roadtrain.codec import parse as codec
from roadtrain.errors import RunFailed
from roadtrain.message import Leave, Left
from roadtrain.plan import parse
from roadtrain.session.control import Control, FirstWeights, Joined
from roadtrain.session.entrance import Entrance
from roadtrain.session.host_copies import HostCopies, Ready
from roadtrain.session.joining import Address, Begun, Built, Terms, build
from roadtrain.session.model_tensors import ModelTensors
from roadtrain.session.payload import Deltas
from roadtrain.session.session import FOLLOWS, Session, State
from roadtrain.session.stats import WorkerStats
from roadtrain.session.sync_thread import SyncClient
from roadtrain.sync.effects import Install
from roadtrain.sync.fragment import fragments_of
from roadtrain.sync.replica_buffers import ReplicaBuffers
from roadtrain.sync.strategy import strategy_for
from roadtrain.sync.worker import Contribution, Worker
from roadtrain.view import LinkState, Member, PeerId, View
from roadtrain.wire.credentials import Credentials

NONE = codec("none")
LOCAL = strategy_for(parse('[sync]\nstrategy = "localsgd:2"\n[optimizer]\nname = "sgd"\n'))
SSGD = strategy_for(parse('[optimizer]\nname = "sgd"\n'))
PATIENCE_S = 30.0
"""Only a test that fails waits so long."""


class Echo:
    """The others, played by nobody: every contribution comes back, a step further, as what was agreed on."""

    def __init__(self, buffers: ReplicaBuffers) -> None:
        self.buffers = buffers
        self.given: list[tuple[int, float]] = []
        self.abstained: list[int] = []
        self.lefts: list[Left] = []
        self.staleness, self.lead = 0, 0
        self.closed = False
        self._answers: dict[int, Install] = {}

    def settle_accounts(self) -> None:
        """Nobody counts."""

    def owns_everything(self) -> bool:
        return False

    def contribute(self, what: Contribution, value: Tensor, copied: Ready, lr: float = 0.0) -> None:
        self.given.append((what.fragment, lr))
        held = self.buffers.held[what.fragment]
        assert held is not None
        packet = NONE.encode(held - value if value.isfinite().all() else held)
        self._answers[what.fragment] = Install(
            what.fragment, what.clock, what.clock, self.staleness, self.lead, True, packet
        )

    def abstain(self, what: Contribution) -> None:
        self.abstained.append(what.fragment)

    def arrivals(self, fragments: Collection[int]) -> Iterator[Install]:
        return iter([self._answers.pop(fragment) for fragment in fragments])

    def leave(self, leaves: Sequence[Leave]) -> list[Left]:
        self.left = list(leaves)
        return self.lefts or [Left(leave.fragment, leave.clock, leave.version, "", None) for leave in leaves]

    def flush(self, timeout_s: float) -> None:
        """Nothing is under way."""

    def close(self) -> None:
        self.closed = True


class Shut:
    """Nobody comes later."""

    asked = False

    def close(self) -> None:
        """Nobody is there."""


class Seated:
    """A session of local steps on one weight, among nobody."""

    def __init__(self) -> None:
        self.model = nn.Linear(2, 1, bias=False)
        tensors, fragments = ModelTensors(self.model), fragments_of(self.model, 1 << 20)
        buffers = ReplicaBuffers(fragments, NONE, NONE)
        copies = HostCopies(torch.device("cpu"), 0)
        payload = Deltas(fragments, tensors, buffers, copies)
        buffers.hold(0, payload.first_value(0))
        self.others, self.forgotten = Echo(buffers), 0
        client = cast(SyncClient, self.others)
        places = [(fragment, copies.host_buffer(fragment.numel, fragment.dtype)) for fragment in fragments]
        self.session = Session(
            client, Worker(LOCAL, 1), places, payload, WorkerStats(), cast(Entrance, Shut()), self._forget
        )

    def _forget(self) -> None:
        self.forgotten += 1

    def step(self, change: float = 1.0) -> None:
        self.session.begin()
        with torch.no_grad():
            self.model.weight.add_(change)
        self.session.computed(4)
        self.session.stepped()


@pytest.fixture
def seated() -> Seated:
    return Seated()


# -------------------------------------------------------------------------------------------------------------- states


def reach(session: Session, state: State) -> None:
    """Bring a session into a state."""
    if state is State.FINISHING:  # as when the wait for the others' end has failed
        session.state = state
    elif state is not State.TRAINING:
        session.finish()
        if state is State.CLOSED:
            session.close()
    assert session.state is state


CALLS: dict[str, Callable[[Session], object]] = {
    "begin": lambda session: session.begin(),
    "finish": lambda session: session.finish(),
    "close": lambda session: session.close(),
}
AFTER = {
    ("begin", State.TRAINING): State.TRAINING,
    ("finish", State.TRAINING): State.FINISHED,
    **{("close", state): State.CLOSED for state in State},
}
"""The state that a call leads to; what is not here cannot follow."""


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("call", CALLS)
def test_the_table_of_states(seated: Seated, call: str, state: State) -> None:
    reach(seated.session, state)
    after = AFTER.get((call, state))
    if after is None:
        with pytest.raises(RunFailed) as refused:
            CALLS[call](seated.session)
        assert state.value in refused.value.line()
        assert "\n" not in refused.value.line()
        assert seated.session.state is state
    else:
        CALLS[call](seated.session)
        assert seated.session.state is after


def test_every_state_can_be_closed_and_none_goes_back() -> None:
    order = list(State)
    for state, following in FOLLOWS.items():
        assert state is State.CLOSED or State.CLOSED in following
        assert all(order.index(after) > order.index(state) for after in following)


def test_a_wait_for_the_end_that_fails_can_be_closed(seated: Seated, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(leaves: Sequence[Leave]) -> list[Left]:
        raise RunFailed("the run has ended")

    monkeypatch.setattr(seated.others, "leave", broken)
    with pytest.raises(RunFailed, match="the run has ended"):
        seated.session.finish()
    assert seated.session.state is State.FINISHING
    seated.session.close()
    assert seated.others.closed


# -------------------------------------------------------------------------------------------------------------- orders


def test_what_was_trained_is_agreed_on_at_the_end_of_a_period(seated: Seated) -> None:
    before = seated.model.weight.detach().clone()
    seated.step()
    assert seated.others.given == []
    seated.step()
    assert seated.others.given == [(0, 0.0)]
    assert torch.allclose(seated.model.weight, before + 2)
    held = seated.session.held(0)
    assert held is not None
    assert torch.equal(held, seated.model.weight.detach().flatten()), "the anchor of the next period"
    assert seated.session.step == 2


def test_a_contribution_carries_the_learning_rate_of_its_group(seated: Seated) -> None:
    seated.session.lr_of = lambda group: 0.25 + group
    seated.step()
    seated.step()
    assert seated.others.given == [(0, 0.25)]


def test_staleness_and_lead_are_counted(seated: Seated) -> None:
    for staleness, lead in ((0, 1), (2, 3), (2, 0)):
        seated.others.staleness, seated.others.lead = staleness, lead
        seated.step()
        seated.step()
    assert seated.session.stats.staleness == {0: 1, 2: 2}
    assert seated.session.stats.lead_max == 3


def test_what_is_not_finite_drops_the_moments(seated: Seated) -> None:
    """The owner will not take it, and moments would make it again."""
    seated.step()
    seated.step(float("nan"))
    assert seated.forgotten == 1
    seated.step()
    seated.step()
    assert seated.forgotten == 1


def test_a_short_last_period_is_agreed_on_and_the_end_awaited(seated: Seated) -> None:
    for _ in range(3):
        seated.step()
    seated.session.finish()
    assert len(seated.others.given) == 2
    assert seated.others.left == [Leave(0, 2, 2, 0)]


@pytest.mark.parametrize("digest", [0, 5])
def test_values_of_the_end_are_taken_where_owners_make_them(seated: Seated, digest: int) -> None:
    """Where replicas step by themselves (they have a digest) the ledgers hold means, not values."""
    seated.others.lefts = [Left(0, 1, 9, "", NONE.encode(torch.tensor([7.0, 8.0])))]
    before = seated.model.weight.detach().flatten().tolist()
    assert seated.session.finish(lambda: digest) == seated.others.lefts
    assert seated.model.weight.flatten().tolist() == (before if digest else [7.0, 8.0])


# ------------------------------------------------------------------------------------------ with a thread and a network


class Nobody:
    """A coordinator that says nothing."""

    me: PeerId = "w0"
    incarnation = 1

    def event(self, name: str, **details: Any) -> None:
        """Nobody keeps it."""

    def spoils(self, peer: str, reason: str, /) -> None: ...

    def unreached(self, peer: str, incarnation: int, /) -> None:
        """All reach each other."""

    leaves = False

    def will_depart(self) -> None:
        pass

    def depart(self) -> None:
        pass

    def links(self, states: Mapping[str, LinkState], uplink: float | None, /) -> None:
        """Nobody looks."""

    def holds(self, view: int, fragment: int, whole: bool, /) -> None:
        """Nobody asks."""

    def unmodified(self) -> None:
        raise NotImplementedError

    def warn(self, text: str) -> None:
        raise NotImplementedError

    def observe(self, waits: Callable[[], bool]) -> None:
        """Nobody looks."""


NOWHERE = "127.0.0.1:1"
"""Nobody listens there."""


def view(number: int, *members: str) -> View:
    named = tuple(Member(name, int(name[1:]) + 1) for name in members)
    return View(number, named, ("w1",), ("w0",))


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[tuple[Session, Future[None]]]:
    """A session of two workers, of which the other is never there, and the wait for it on another thread."""
    terms = Terms(strategy=SSGD, codecs=(NONE, NONE), owners=2, fragment_bytes=1 << 20)
    built = build(
        nn.Linear(2, 1),
        terms,
        Address(credentials=Credentials("token", secure=False), host="127.0.0.1", link=None),
        tmp_path,
    )
    session = join(built)
    begun = threading.Event()

    def train() -> None:
        session.begin()
        session.computed(4)
        begun.set()
        session.stepped()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(train)
        assert begun.wait(PATIENCE_S)
        yield session, done
        session.client.fail("the test is over")
    session.client.close()
    built.listener.close()


def join(built: Built) -> Session:
    addresses = {"w0": built.listener.address, "w1": NOWHERE}
    return built.join(
        cast(Control, Nobody()), Joined(view(1, "w0", "w1"), addresses, FirstWeights({})), Begun(), lambda: None
    )


def reason(done: Future[None]) -> str:
    """The one line with which the wait ends."""
    with pytest.raises(RunFailed) as failed:
        done.result(PATIENCE_S)
    assert "\n" not in failed.value.line()
    return failed.value.message


Waiting = tuple[Session, "Future[None]"]


def test_a_view_that_cannot_be_entered_ends_the_wait(waiting: Waiting) -> None:
    session, done = waiting
    session.view_changed(view(2, "w0", "w1"), cast(Any, "no addresses"))
    assert reason(done).startswith("view 2 cannot be entered: ")


def test_a_view_of_other_fragments_ends_the_wait(waiting: Waiting) -> None:
    session, done = waiting
    session.view_changed(View(2, view(2, "w0", "w1").members, (), ()), {"w1": NOWHERE})
    assert "the agreement with the other workers broke" in reason(done)


def test_a_connection_that_cannot_go_on_ends_the_wait(waiting: Waiting) -> None:
    session, done = waiting
    failed = session.client._carrier.failed
    assert failed is not None
    failed(OSError("no route to host"))
    assert reason(done) == "the connections to the other workers broke: OSError: no route to host"


def test_who_was_taken_for_lost_is_told_so(waiting: Waiting) -> None:
    session, done = waiting
    session.view_changed(View(2, (Member("w1", 2),), ("w1",), (None,)), {})
    assert "taken for lost" in reason(done)


def test_the_end_of_the_run_ends_the_wait(waiting: Waiting) -> None:
    session, done = waiting
    session.client.fail("the run has ended")
    session.client.fail("and something else")
    assert reason(done) == "the run has ended", "the first reason counts"


def test_a_failure_ends_every_later_wait(waiting: Waiting) -> None:
    session, done = waiting
    session.client.fail("the run has ended")
    reason(done)
    for wait in (session.finish, session.collect):
        with pytest.raises(RunFailed, match="the run has ended"):
            wait()


def test_the_other_being_lost_does_not_end_it(waiting: Waiting) -> None:
    """This worker stood by: it takes the fragment over and goes on alone."""
    session, done = waiting
    session.view_changed(View(2, (Member("w0", 1),), ("w0",), (None,)), {})
    done.result(PATIENCE_S)
    assert session.step == 1
    assert session.client.incidents.counts().handoffs == 1
    assert session.client.owns_everything()
