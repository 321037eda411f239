"""Workers of one process, each on a thread, that agree over real connections; and small things to train."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from roadtrain.checkpoint.checkpoint import Shared
from roadtrain.errors import RunFailed
from roadtrain.lease import Leases
from roadtrain.membership.effects import Effects
from roadtrain.membership.evaluations import Evaluations
from roadtrain.membership.messages import Evaluate, Evaluated, Evaluating, Figures, Finish, JoinRequest
from roadtrain.membership.view import first_view
from roadtrain.plan import Plan
from roadtrain.session.control import FirstWeights, Joined
from roadtrain.session.worker_context import WorkerContext
from roadtrain.sync.fragment import Fragment
from roadtrain.trainer.job import BuiltJob, RunningJob
from roadtrain.trainer.sampler import Sampler
from roadtrain.trainer.task import Batch, Task
from roadtrain.view import LinkState, Member, PeerId, Place, View
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.relay import Relay

FEATURES = 6
HANG_S = 60
"""Longest wait for a thread."""
T = TypeVar("T")


def plan_for(workers: int, **sections: dict[str, Any]) -> Plan:
    """A plan in float64 with SGD; `sections` as in `job={"steps": 5}`."""
    base = Plan()
    given = {
        "job": {"precision": "fp64", "steps": 8, "batch": 4, "seed": 1},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "place": {"workers": workers, "device": "cpu"},
        "watch": {"log_every": 1},
    }
    for section, values in sections.items():
        given[section] = given.get(section, {}) | values
    return replace(base, **{section: replace(getattr(base, section), **values) for section, values in given.items()})


class Regression:
    """Learn a product of features. `make_model` builds it; sample number `poisoned`, if given, is not a number."""

    tokens_per_sample = 0

    def __init__(self, make_model: Callable[[], nn.Module], samples: int = 64, poisoned: int | None = None) -> None:
        generator = torch.Generator().manual_seed(5)
        self.inputs = torch.randn(samples, FEATURES, generator=generator, dtype=torch.float64)
        self.targets = self.inputs[:, :1] * self.inputs[:, 1:2] + self.inputs[:, 2:3]
        if poisoned is not None:
            self.inputs[poisoned] = float("nan")
        self._make_model = make_model

    def build(self) -> nn.Module:
        return self._make_model()

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, indices: Tensor) -> Batch:
        return self.inputs[indices], self.targets[indices]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return functional.mse_loss(model(batch[0]), batch[1])

    def validate(self, model: nn.Module) -> float:
        return float(self.loss(model, (self.inputs, self.targets)).detach())

    def sample(self, model: nn.Module) -> str | None:
        return None


def perceptron() -> nn.Module:
    """Two layers."""
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, 1))


class Gathering:
    """Where the workers of a run meet: when all have asked, each is told the first view and all digests."""

    def __init__(self, workers: int) -> None:
        self._requests: dict[PeerId, JoinRequest] = {}
        self._all = threading.Barrier(workers)
        self._end = threading.Barrier(workers)
        self._workers, self._evaluations = workers, Evaluations()
        self._figures: dict[tuple[PeerId, str], tuple[bytes, ...]] = {}
        self._one_by_one = threading.Lock()
        self.answers = True
        """Whether a coordinator says anything about evaluations."""

    def join(self, me: PeerId, request: JoinRequest) -> Joined:
        self._requests[me] = request
        self._all.wait(HANG_S)
        asked = dict(sorted(self._requests.items()))
        members = [Member(name, int(name[1:]) + 1) for name in asked]
        view = first_view(members, request.sizes, request.sharded)
        addresses = {name: one.address for name, one in asked.items()}
        return Joined(view, addresses, FirstWeights({name: one.digests for name, one in asked.items()}))

    def evaluate(self, me: PeerId, evaluation: str, chunks: int) -> tuple[int, ...] | None:
        if not self.answers:
            return None
        with self._one_by_one:
            out = Effects()
            self._figures.pop((me, evaluation), None)
            self._evaluations.ask(me, Evaluating(evaluation, chunks), self._workers, out)
            self._tell(out)
            return next((said.chunks for _, said in out.messages if isinstance(said, Evaluate)), None)

    def evaluated(self, evaluation: str, chunk: int, figures: bytes) -> None:
        with self._one_by_one:
            out = Effects()
            self._evaluations.take(Evaluated(evaluation, chunk, figures), out)
            self._tell(out)

    def _tell(self, out: Effects) -> None:
        for name, said in out.messages:
            if isinstance(said, Figures):
                self._figures[name, said.evaluation] = said.figures

    def figures(self, me: PeerId, evaluation: str) -> tuple[bytes, ...] | None:
        return self._figures.get((me, evaluation))

    def part(self) -> None:
        """Nobody goes before all have come to the end."""
        self._end.wait(HANG_S)

    def abort(self) -> None:
        """One of them has failed."""
        self._all.abort()
        self._end.abort()


class Word:
    """The coordinator's part, played by nobody: all may step up to `last`, nobody is lost."""

    def __init__(self, slot: int, gathering: Gathering, last: int | None = None) -> None:
        self.me, self.incarnation = f"w{slot}", slot + 1
        self.metrics: list[dict[str, Any]] = []
        self.events: list[str] = []
        self.bad_samples: list[int] = []
        self.counts: list[tuple[PeerId, Leases]] = []
        self.ended: list[tuple[int, bool]] = []
        self.results: list[dict[str, Any]] = []
        self.fail: Callable[[str], None] = lambda why: None
        self.told: Mapping[str, LinkState] = {}
        self.evaluated_here: list[int] = []
        self._gathering, self._last = gathering, last
        self._orders: list[Finish] = []

    def join(self, request: JoinRequest) -> Joined:
        return self._gathering.join(self.me, request)

    def on_view(self, call: Callable[[View, dict[PeerId, str]], None]) -> None:
        """Nobody is lost, so the first view stays."""

    def on_end(self, call: Callable[[str], None]) -> None:
        self.fail = call

    def unmodified(self) -> None:
        raise NotImplementedError

    def warn(self, text: str) -> None:
        raise NotImplementedError

    def observe(self, waits: Callable[[], bool]) -> None:
        """Nobody looks whether it is stuck."""

    def spoils(self, peer: str, reason: str, /) -> None: ...

    def unreached(self, peer: str, incarnation: int, /) -> None:
        """All reach each other."""

    leaves = False

    def will_depart(self) -> None:
        pass

    def depart(self) -> None:
        pass

    def links(self, states: Mapping[str, LinkState], uplink: float | None, /) -> None:
        self.told = states

    def holds(self, view: int, fragment: int, whole: bool, /) -> None:
        """Nobody takes over."""

    def on_feeders(self, call: Callable[[Mapping[PeerId, Place]], None]) -> None:
        """There are none."""

    def feeds(self, address: str) -> None:
        """There are none."""

    def feeder_differs(self, feeder: str) -> None:
        """There are none."""

    def bad_sample(self, index: int, why: str) -> None:
        self.bad_samples.append(index)

    def may_step(self, step: int) -> bool:
        return self._last is None or step <= self._last

    @property
    def stop(self) -> int | None:
        return self._last

    def counted(self, size: int, batch: int, contributions: Sequence[tuple[PeerId, Leases]], /) -> None:
        self.counts += contributions

    def evaluate(self, evaluation: str, chunks: int) -> tuple[int, ...] | None:
        return self._gathering.evaluate(self.me, evaluation, chunks)

    def evaluated(self, evaluation: str, chunk: int, figures: bytes) -> None:
        self.evaluated_here.append(chunk)
        self._gathering.evaluated(evaluation, chunk, figures)

    def figures(self, evaluation: str) -> tuple[bytes, ...] | None:
        return self._gathering.figures(self.me, evaluation)

    def log(self, record: dict[str, Any]) -> None:
        self.metrics.append(record)

    def event(self, name: str, **details: Any) -> None:
        self.events.append(name)

    def is_first(self) -> bool:
        return self.me == "w0"

    @property
    def is_over(self) -> bool:
        return False

    def newer_view(self, after: int) -> View | None:
        return None

    def next_view(self, after: int, timeout_s: float) -> View:
        raise TimeoutError("nobody is lost here")

    def meeting_point(self, view: View, mine: str | None) -> str:
        raise RunFailed("nobody meets here")

    def done(self, step: int, *, complete: bool, stats: dict[str, Any]) -> None:
        self.ended.append((step, complete))
        if self.is_first():
            self._orders.append(Finish({}, complete))

    def farewell(self, stats: dict[str, Any]) -> None:
        """Nobody counts."""

    def await_end(self, linger_s: float) -> Finish | None:
        if self._orders:
            return self._orders.pop()
        self._gathering.part()
        return None

    def result(self, found: dict[str, Any]) -> None:
        self.results.append(found)


def at_once(works: Sequence[Callable[[], T]]) -> list[T]:
    """What each of `works` returns, done on a thread each. Raises what one of them raised."""
    results: dict[int, T] = {}
    errors: list[BaseException] = []

    def one(number: int) -> None:
        try:
            results[number] = works[number]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=HANG_S)
    if errors:
        raise errors[0]
    assert len(results) == len(works), "a worker hangs"
    return [results[number] for number in range(len(works))]


class Team:
    """`workers` of one plan and task, which have joined."""

    def __init__(
        self,
        plan: Plan,
        task: Task,
        folder: Path,
        resume: Callable[[], Shared] | None = None,
        last: int | None = None,
        relay: Relay | None = None,
    ) -> None:
        """`relay`: nobody listens, and all meet there."""
        workers = plan.place.workers
        credentials = Credentials("a token of this test", secure=False)
        gathering = Gathering(workers)
        self.built = [
            BuiltJob(
                plan,
                task,
                WorkerContext(slot, workers, "127.0.0.1", folder, credentials, relay=relay, listens=relay is None),
                resume() if resume else None,
            )
            for slot in range(workers)
        ]
        self.words = [Word(slot, gathering, last) for slot in range(workers)]
        pairs = zip(self.built, self.words, strict=True)
        self.jobs: list[RunningJob] = at_once([lambda b=built, w=word: b.join(w) for built, word in pairs])

    @property
    def fragments(self) -> list[Fragment]:
        """What the model is cut into."""
        assert self.built[0].built is not None
        return self.built[0].built.fragments

    def fit(self) -> list[bool]:
        """Train all; what each `fit` returned. Raises what one of them raised."""
        return at_once([job.fit for job in self.jobs])

    def save(self) -> None:
        """Every worker saves its part of a checkpoint."""
        for job in reversed(self.jobs):
            job.checkpointer.save(job.step)
            job.checkpointer.settle()

    def model(self) -> dict[str, Tensor]:
        """The model that all have agreed on, as a checkpoint has it."""
        shared = self.jobs[0].checkpointer.shared(self.jobs[0].step, None)
        return shared.published or shared.model

    def refused(self) -> int:
        """Contributions that owners refused."""
        return sum(job.counted()["refused"] for job in self.jobs)

    def close(self) -> None:
        for job in self.jobs:
            job.close()
        for built in self.built:
            built.close()


def far(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest absolute difference."""
    assert one.keys() == other.keys()
    return max((float((one[name] - other[name]).abs().max()) for name in one), default=0.0)


def by_hand(
    task: Regression, plan: Plan, weights: Callable[[int], Sequence[float]] = lambda step: ()
) -> dict[str, Tensor]:
    """ssgd with plain SGD written out: every worker's gradient and buffers, averaged. `weights(step)`: of the workers, if
    not all the same."""
    workers = plan.place.workers
    torch.manual_seed(plan.job.seed)
    first = task.build().double()
    replicas = [task.build().double() for _ in range(workers)]
    state = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    sampler = make_sampler(task, plan)
    named = dict(first.named_parameters(remove_duplicate=False))
    firsts = {name: next(n for n, p in first.named_parameters() if p is tensor) for name, tensor in named.items()}
    for step in range(plan.job.steps):
        given = weights(step) or [1.0] * workers
        shares = [weight / sum(given) for weight in given]
        for slot, replica in enumerate(replicas):
            replica.load_state_dict(state)
            replica.zero_grad()
            task.loss(replica, task.batch(sampler.indices(step, slot))).backward()
        for name, _ in first.named_parameters():
            for share, replica in zip(shares, replicas, strict=True):
                gradient = replica.get_parameter(name).grad
                if gradient is not None and share > 0:
                    state[name] = state[name] - plan.optimizer.lr * share * gradient
        state |= {name: state[original] for name, original in firsts.items()}
        for name, buffer in first.named_buffers():
            if buffer.is_floating_point():
                found = [share * replica.get_buffer(name) for share, replica in zip(shares, replicas, strict=True)]
                state[name] = torch.stack(found).sum(0)
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


def make_sampler(task: Regression, plan: Plan) -> Sampler:
    """The sampler that the workers of `plan` use."""
    return Sampler(len(task), plan.job.batch, plan.place.workers, plan.job.seed)


Gather = Callable[..., Team]
