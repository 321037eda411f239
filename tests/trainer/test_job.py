"""What travels between the workers of a job and what does not, against the same sums written out by hand."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from threading import Timer

import pytest
import torch
from relays import place
from team import FEATURES, Gather, Gathering, Regression, Team, Word, by_hand, far, make_sampler, perceptron, plan_for
from torch import nn
from torch.nn import functional

from roadtrain.errors import RunFailed, UsageError
from roadtrain.lease import slices_of
from roadtrain.membership.messages import JoinRequest
from roadtrain.session import sync_thread
from roadtrain.session.control import FirstWeights, Joined
from roadtrain.session.worker_context import WorkerContext
from roadtrain.trainer.job import BuiltJob
from roadtrain.trainer.task import held_out
from roadtrain.view import Member, Via, View
from roadtrain.wire.credentials import Credentials


def frozen_first_layer() -> nn.Module:
    model = perceptron()
    model[0].requires_grad_(False)  # type: ignore[index]
    return model


def with_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))


class Tied(nn.Module):
    """One matrix used twice, and one that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(FEATURES, FEATURES)
        self.two = nn.Linear(FEATURES, FEATURES, bias=False)
        self.two.weight = self.one.weight
        self.idle = nn.Linear(FEATURES, 1)
        self.out = nn.Linear(FEATURES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.two(torch.tanh(self.one(x)))))


def names_that_travel(team) -> set[str]:
    return {piece.name for fragment in team.fragments for piece in fragment.pieces}


@pytest.mark.parametrize("owners", ["sharded", "central"])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_mean_of_all_gradients(gather: Gather, workers: int, owners: str):
    plan, task = plan_for(workers, sync={"owners": owners}), Regression(perceptron)
    team = gather(plan, task)
    assert team.fit() == [True] * workers
    assert far(team.model(), by_hand(task, plan)) < 1e-12
    replicas = [{n: p.detach() for n, p in job.model.named_parameters()} for job in team.jobs]
    assert all(far(replica, team.model()) == 0.0 for replica in replicas)


def test_workers_that_only_dial_out_train_as_those_that_listen(gather: Gather, monkeypatch: pytest.MonkeyPatch):
    """Each has drawn weights of its own, so those of the first travel too."""
    monkeypatch.setattr(sync_thread, "LOOK_S", 0.05)
    drawn: list[int] = []

    def model() -> nn.Module:
        made = perceptron()
        drawn.append(len(drawn))
        with torch.no_grad():
            made[0].weight.add_(drawn[-1])  # type: ignore[index]
        return made

    plan = plan_for(3)
    team = gather(plan, Regression(model))
    assert team.fit() == [True] * 3
    listening = team.model()
    drawn.clear()
    with place() as at:
        team = gather(plan, Regression(model), relay=at.relay)
        assert all(built.request().address == "" for built in team.built)
        assert team.fit() == [True] * 3
        assert far(team.model(), listening) == 0.0
        time.sleep(0.3)
        for word in team.words:
            assert {peer: state.via for peer, state in word.told.items()} == dict.fromkeys(
                {"w0", "w1", "w2"} - {word.me}, Via.RELAY
            )


def test_who_does_not_listen_takes_no_part_in_a_layout(tmp_path: Path):
    context = WorkerContext(0, 2, "127.0.0.1", tmp_path, Credentials("token", secure=False), listens=False)
    with pytest.raises(UsageError, match="does not listen"):
        BuiltJob(plan_for(2, layout={"spread": ("dp:2",)}), Regression(perceptron), context, None)


def test_what_is_frozen_does_not_travel(gather: Gather):
    plan, task = plan_for(2), Regression(frozen_first_layer)
    team = gather(plan, task)
    torch.manual_seed(plan.job.seed)
    before = task.build().double().state_dict()
    team.fit()
    assert names_that_travel(team) == {"2.weight", "2.bias"}
    assert team.model().keys() == {"2.weight", "2.bias"}
    for job in team.jobs:
        after = job.model.state_dict()
        assert torch.equal(after["0.weight"], before["0.weight"])
        assert not torch.equal(after["2.weight"], before["2.weight"])
    expected = by_hand(task, plan)
    assert far(team.model(), {name: expected[name] for name in team.model()}) < 1e-12


class Sparse(nn.Module):
    """A table of which each step reads, and has gradients of, a few rows; by a layer or by torch's function."""

    def __init__(self, layer: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 4, sparse=True)
        self.out = nn.Linear(4, 1)
        self._layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = (x[:, 0].abs() * 5).long().clamp(0, 19)
        found = self.table(rows) if self._layer else functional.embedding(rows, self.table.weight, sparse=True)
        return self.out(found)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("sync", ["ssgd", "localsgd:2", "asgd"])
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_sparse_gradients_are_those_that_are_not(gather: Gather, sync: str, optimizer: str, clip: float):
    given = {"sync": {"strategy": sync}, "optimizer": {"name": optimizer, "lr": 0.01, "clip": clip}}
    ends = []
    for layer in (True, False):
        team = gather(plan_for(1, job={"steps": 4}, **given), Regression(lambda layer=layer: Sparse(layer)))
        assert team.fit() == [True]
        ends.append(team.model())
    assert far(*ends) < 1e-12


class Changing(nn.Module):
    """From its third step on it trains a layer that was frozen, or its buffer grows."""

    def __init__(self, change: str) -> None:
        super().__init__()
        self.layers = perceptron()
        self.register_buffer("seen", torch.zeros(1, dtype=torch.float64))
        self._change, self._steps = change, 0
        if change == "thaws":
            self.layers[0].requires_grad_(False)  # type: ignore[index]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._steps += 1
        if self._steps == 3 and self._change == "thaws":
            self.layers.requires_grad_(True)
        if self._steps >= 3 and self._change == "grows":
            self.seen = torch.cat([self.seen, torch.ones(1, dtype=torch.float64)])
        return self.layers(x)


@pytest.mark.parametrize("sync", ["ssgd", "asgd", "localsgd:2"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("thaws", "layers.0.weight did not require a gradient when the run began, and does now"),
        ("grows", "the buffer seen had the shape [1] when the run began, and has [2] now"),
    ],
)
def test_a_model_that_becomes_another_is_one_line(gather: Gather, change: str, said: str, sync: str):
    team = gather(plan_for(1, sync={"strategy": sync}), Regression(lambda: Changing(change)))
    with pytest.raises(UsageError) as refused:
        team.fit()
    assert refused.value.message == said


@pytest.mark.parametrize("owners", ["sharded", "central"])
def test_batch_norm_statistics_are_averaged(gather: Gather, owners: str):
    plan, task = plan_for(2, sync={"owners": owners}), Regression(with_batch_norm)
    team = gather(plan, task)
    team.fit()
    assert {"1.running_mean", "1.running_var"} < names_that_travel(team)
    assert "1.num_batches_tracked" not in names_that_travel(team)
    assert far(team.model(), by_hand(task, plan)) < 1e-12
    one, other = (job.model.state_dict() for job in team.jobs)
    assert torch.equal(one["1.running_mean"], other["1.running_mean"])
    assert torch.equal(one["1.running_var"], other["1.running_var"])


def test_batch_norm_statistics_are_averaged_once_a_period(gather: Gather):
    plan, task = plan_for(2, sync={"strategy": "localsgd:4"}), Regression(with_batch_norm)
    team = gather(plan, task)
    team.fit()
    one, other = (job.model.state_dict() for job in team.jobs)
    assert torch.equal(one["1.running_var"], other["1.running_var"])
    assert not torch.allclose(one["1.running_var"], torch.ones(8, dtype=torch.float64))


@pytest.mark.parametrize("codec", ["int8", "fp16", "topk:0.5"])
def test_batch_norm_statistics_through_a_codec_that_loses(gather: Gather, codec: str):
    """A variance below zero would be no number in the next forward pass."""
    plan, task = plan_for(2, codec={"up": codec}, job={"steps": 20}), Regression(with_batch_norm)
    team = gather(plan, task)
    team.fit()
    assert team.refused() == 0
    expected = by_hand(task, plan)
    for job in team.jobs:
        state = job.model.state_dict()
        assert all(bool(value.isfinite().all()) for value in state.values())
        assert float(state["1.running_var"].min()) > 0
        for name in ("1.running_mean", "1.running_var"):
            assert far({name: state[name]}, {name: expected[name]}) < 0.1


def test_tied_and_idle_parameters(gather: Gather):
    plan, task = plan_for(2), Regression(Tied)
    team = gather(plan, task)
    assert team.fit() == [True, True]
    assert "two.weight" not in names_that_travel(team)
    expected = by_hand(task, plan)
    assert far(team.model(), {name: expected[name] for name in team.model()}) < 1e-12


def test_a_model_in_pieces(gather: Gather):
    """Tensors that are cut over several fragments, and fragments of several tensors."""

    def wide() -> nn.Module:
        return nn.Sequential(nn.Linear(FEATURES, 300), nn.Tanh(), nn.Linear(300, 4), nn.Tanh(), nn.Linear(4, 1))

    plan, task = plan_for(2, job={"steps": 4}, sync={"fragment_mb": 0.004}), Regression(wide)
    team = gather(plan, task)
    assert len(team.fragments) >= 5
    team.fit()
    assert far(team.model(), by_hand(task, plan)) < 1e-12


@pytest.mark.parametrize(
    "strategy", ["ssgd", "ssp:2", "asgd", "localsgd:3", "diloco:3", "streaming:3", "async-diloco:3"]
)
def test_every_strategy_counts_its_samples(gather: Gather, strategy: str):
    plan = plan_for(2, sync={"strategy": strategy}, optimizer={"lr": 0.02})
    team = gather(plan, Regression(perceptron))
    before = held_out(team.jobs[0].task, team.jobs[0].model)["val_loss"]
    assert team.fit() == [True, True]
    counted = [job.counted() for job in team.jobs]
    each = strategy in ("asgd", "ssp:2", "async-diloco:3")  # by demand
    assert each or [(c["steps"], c["samples"]) for c in counted] == [(8, 32), (8, 32)]
    assert (sum(c["steps"] for c in counted), sum(c["samples"] for c in counted)) == (16, 64)
    told = [leases for word in team.words for _, leases in word.counts]
    assert sorted(number for leases in told for number in slices_of(leases)) == list(range(16))
    assert all(c["bytes_sent"] > 0 for c in counted)
    assert held_out(team.jobs[0].task, team.jobs[0].model)["val_loss"] < before


# -------------------------------------------------------------------------------------------------------------- poison


STEPS = 8
"""With two workers and batches of four: each of the 64 samples once."""


def poisoned_step(task: Regression, plan, sample: int) -> tuple[int, int]:
    """The step and the slot that take a sample."""
    sampler = make_sampler(task, plan)
    slots = [(step, slot) for step in range(STEPS) for slot in range(2)]
    return next(where for where in slots if sample in sampler.indices(*where))


def test_one_gradient_that_is_not_a_number_is_left_out(gather: Gather):
    """The round goes on with the other worker's gradient alone; every fragment's refusal is counted."""
    plan, task = plan_for(2, job={"steps": STEPS}), Regression(perceptron, poisoned=20)
    at, slot = poisoned_step(task, plan, 20)
    assert at < STEPS - 1
    team = gather(plan, task)
    assert team.fit() == [True, True]
    healthy = [float(other != slot) for other in range(2)]
    expected = by_hand(task, plan, lambda step: healthy if step == at else [1.0, 1.0])
    assert far(team.model(), expected) < 1e-12
    assert team.refused() == len(team.fragments)


@pytest.mark.parametrize("strategy", ["ssgd", "ssp:1", "asgd", "localsgd:2", "diloco:2"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_poison_never_enters_the_model(gather: Gather, strategy: str, optimizer: str):
    """One bad sample costs one contribution, whatever the optimizer remembers."""
    sections = {"sync": {"strategy": strategy}, "optimizer": {"name": optimizer, "lr": 0.01}, "job": {"steps": STEPS}}
    if optimizer == "sgd":
        sections["optimizer"]["momentum"] = 0.9
    team = gather(plan_for(2, **sections), Regression(perceptron, poisoned=20))
    assert team.fit() == [True, True]
    assert all(bool(torch.isfinite(value).all()) for value in team.model().values())
    for job in team.jobs:
        assert all(bool(torch.isfinite(value).all()) for value in job.model.state_dict().values())
    assert team.refused() == len(team.fragments)


def test_poison_ends_with_the_fragment_whose_turn_it_is(gather: Gather):
    """Streaming: the others would poison it again, so all start over from what was published."""
    plan = plan_for(2, sync={"strategy": "streaming:2", "fragment_mb": 0.0001}, job={"steps": STEPS})
    team = gather(plan, Regression(perceptron, poisoned=20))
    assert team.fit() == [True, True]
    assert all(bool(torch.isfinite(value).all()) for value in team.model().values())
    for job in team.jobs:
        assert all(bool(torch.isfinite(value).all()) for value in job.model.state_dict().values())
    assert 1 <= team.refused() <= 2


def test_when_all_diverge_the_model_stays(gather: Gather):
    plan = plan_for(2, optimizer={"lr": 1e200})
    team = gather(plan, Regression(perceptron))
    team.fit()
    assert team.refused() > 0
    assert all(math.isfinite(float(value.sum())) for value in team.model().values())


def test_a_worker_that_comes_to_own_everything_loses_no_gradient(gather: Gather, monkeypatch: pytest.MonkeyPatch):
    """asgd: an answer is still pending when the step that does not overlap any more begins."""
    plan = plan_for(1, sync={"strategy": "asgd"})
    task = Regression(perceptron)
    team = gather(plan, task)
    session = team.jobs[0].session
    assert session is not None
    alone = iter([False] * 3 + [True] * 100)
    monkeypatch.setattr(session.client, "owns_everything", lambda: next(alone))
    contributed: list[int] = []
    push = session.client.contribute
    monkeypatch.setattr(
        session.client, "contribute", lambda what, *rest: (contributed.append(what.clock), push(what, *rest))
    )
    assert team.fit() == [True]
    assert contributed == list(range(1, plan.job.steps + 1))


class Late(Word):
    """A run that goes on, whose members began with the frozen weights of `digest`."""

    def __init__(self, digest: str) -> None:
        super().__init__(1, Gathering(1))
        self._digest = digest

    def join(self, request: JoinRequest) -> Joined:
        view = View(3, (Member("w0", 1), Member("w1", 4)), ("w0",) * len(request.sizes), ("w1",) * len(request.sizes))
        return Joined(view, {}, FirstWeights({"w0": {"frozen": self._digest}, "w1": {"frozen": self._digest}}))


def test_who_comes_back_with_other_frozen_weights_is_refused(tmp_path: Path):
    """As another kind of CPU draws them: nobody sends what does not train, and the model would be another's without a word."""
    context = WorkerContext(1, 2, "127.0.0.1", tmp_path, Credentials("a token of this test", secure=False))
    job = BuiltJob(plan_for(2), Regression(perceptron), context, None)
    with pytest.raises(RunFailed, match="frozen weights that this worker has built are not those of the run"):
        job.join(Late("another"))
    job.close()


def test_who_waits_for_another_when_the_run_ends_is_told_why(tmp_path: Path):
    team = Team(plan_for(2), Regression(perceptron), tmp_path)
    waiting = Timer(1.0, team.words[0].fail, ["the coordinator is gone"])
    try:
        waiting.start()
        with pytest.raises(RunFailed, match="the coordinator is gone"):
            team.jobs[0].fit()  # the other one never contributes
    finally:
        waiting.cancel()
        team.close()


def test_who_comes_back_and_waits_for_the_state_hears_what_becomes_of_the_run(tmp_path: Path):
    class Over(Late):
        """The one that has the state does not answer, and the run ends meanwhile."""

        def on_end(self, call: Callable[[str], None]) -> None:
            Timer(1.0, call, ["the run has failed"]).start()

    context = WorkerContext(1, 2, "127.0.0.1", tmp_path, Credentials("a token of this test", secure=False))
    job = BuiltJob(plan_for(2), Regression(perceptron), context, None)
    control = Over(job.tensors.digests()["frozen"])
    control.incarnation = 4
    with pytest.raises(RunFailed, match="the run has failed"):
        job.join(control)
    job.close()
