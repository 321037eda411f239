"""Trainers of one process, each on a thread, that agree over real connections; and small things to train."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from roadtrain.errors import RunFailed
from roadtrain.message import Member, View
from roadtrain.plan import Plan
from roadtrain.sync.view import first_view
from roadtrain.trainer.checkpoint import Shared
from roadtrain.trainer.task import Batch, Sampler, Task
from roadtrain.trainer.trainer import Trainer
from roadtrain.trainer.worker_context import WorkerContext
from roadtrain.wire import Credentials

FEATURES = 6


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


class Word:
    """The coordinator's part, played by nobody: all may step up to `last`, nobody is lost."""

    def __init__(self, slot: int, last: int | None) -> None:
        self.me, self.incarnation = f"w{slot}", slot + 1
        self.metrics: list[dict[str, Any]] = []
        self.events: list[str] = []
        self._last = last

    def may_step(self, step: int) -> bool:
        return self._last is None or step <= self._last

    def log(self, record: dict[str, Any]) -> None:
        self.metrics.append(record)

    def event(self, name: str, **details: Any) -> None:
        self.events.append(name)

    def is_first(self) -> bool:
        return self.me == "w0"

    def next_view(self, after: int, timeout_s: float) -> View:
        raise TimeoutError("nobody is lost here")

    def meeting_point(self, view: View, mine: str | None) -> str:
        raise RunFailed("nobody meets here")


class Team:
    """`workers` trainers of one plan and task, started."""

    def __init__(
        self, plan: Plan, task: Task, folder: Path, resume: Callable[[], Shared] | None = None, last: int | None = None
    ) -> None:
        workers = plan.place.workers
        credentials = Credentials("a token of this test", secure=False)
        self.trainers = [
            Trainer(
                plan, task, WorkerContext(slot, workers, "127.0.0.1", folder, credentials), resume() if resume else None
            )
            for slot in range(workers)
        ]
        self.words = [Word(slot, last) for slot in range(workers)]
        members = [Member(word.me, word.incarnation) for word in self.words]
        view = first_view(members, self.trainers[0].sizes(), plan.sync.owners == "sharded")
        ports = [trainer.exchange.port for trainer in self.trainers if trainer.exchange is not None]
        addresses = {f"w{slot}": f"127.0.0.1:{port}" for slot, port in enumerate(ports)}
        for trainer, word in zip(self.trainers, self.words, strict=True):
            trainer.start(word, view, addresses)

    def fit(self) -> list[bool]:
        """Train all; what each `fit` returned. Raises what one of them raised."""
        results: list[bool | BaseException] = [False] * len(self.trainers)

        def one(slot: int) -> None:
            try:
                results[slot] = self.trainers[slot].fit()
            except BaseException as error:
                results[slot] = error

        threads = [threading.Thread(target=one, args=(slot,), daemon=True) for slot in range(len(self.trainers))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
            assert not thread.is_alive(), "a trainer hangs"
        finished: list[bool] = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            finished.append(result)
        return finished

    def save(self) -> None:
        """Every trainer saves its part of a checkpoint."""
        for trainer in reversed(self.trainers):
            trainer.keeper.save(trainer.step)
            trainer.keeper.settle()

    def model(self) -> dict[str, Tensor]:
        """The model that all have agreed on, from its owners."""
        shared = self.trainers[0].keeper.shared(self.trainers[0].step, None)
        return shared.published or shared.model

    def refused(self) -> int:
        """Contributions that owners refused."""
        return sum(trainer.counted()["refused"] for trainer in self.trainers)

    def close(self) -> None:
        for trainer in self.trainers:
            trainer.close()


def far(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
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


def make_sampler(task: Regression, plan: Plan):
    """The sampler that the trainers of `plan` use."""

    return Sampler(len(task), plan.job.batch, plan.place.workers, plan.job.seed)


Gather = Callable[..., Team]
