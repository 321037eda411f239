"""A replica that agrees by all-reduce: meetings that fail for no reason that lasts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import team
import torch
from team import Regression, perceptron
from torch import Tensor, multiprocessing, nn

from roadtrain.errors import UsageError
from roadtrain.layout.options import Options
from roadtrain.membership.view import first_view
from roadtrain.plan import LayoutSpec
from roadtrain.session.stats import WorkerStats
from roadtrain.sync.owner_optimizer import OptimizerSpec
from roadtrain.trainer import rendezvous
from roadtrain.trainer.layout_step import LayoutStep
from roadtrain.trainer.task import Batch
from roadtrain.view import Member, View

SGD = OptimizerSpec(name="sgd", lr=0.1)
VIEW = first_view((Member("w0", 1), Member("w1", 2)), [8], sharded=True)


class Word(team.Word):
    """A coordinator that knows one view, and passes on rendezvous points by a queue."""

    def __init__(self, rank: int, places: Any) -> None:
        super().__init__(rank, team.Gathering(2))
        self._places = places

    def meeting_point(self, view: View, mine: str | None) -> str:
        if mine is None:
            return self._places.get(timeout=20)
        self._places.put(mine)
        return mine


class Broken(Regression):
    """A task with a fault of its own."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        raise RuntimeError("shapes do not fit")


def fail(rank: int, places: Any, results: Any) -> None:
    """The first step of worker `rank`, which is wrong at worker 1; what was raised."""
    rendezvous.VIEW_TIMEOUT_S = 0.05
    model = perceptron().double()
    task = (Broken if rank == 1 else Regression)(lambda: model)
    step = LayoutStep(
        task, model, Word(rank, places), VIEW, "127.0.0.1", SGD, WorkerStats(), Options(spec=LayoutSpec(dp=2))
    )
    step.start()
    try:
        step.compute(task.batch(torch.arange(4)), 1)
    except RuntimeError as error:
        results.put((rank, str(error)))
    step.close()


def train(rank: int, broken: str, places: Any, results: Any) -> None:
    """Three steps of worker `rank`. The first two meetings fail at worker 1, or its group is broken before the second step."""
    torch.manual_seed(0)
    rendezvous.VIEW_TIMEOUT_S = 0.05
    word, model = Word(rank, places), perceptron().double()
    task = Regression(lambda: model)
    step = LayoutStep(task, model, word, VIEW, "127.0.0.1", SGD, WorkerStats(), Options(spec=LayoutSpec(dp=2)))
    failures, meet = iter([broken == "rendezvous"] * 2), step._meet

    def meet_badly(view: View) -> None:
        meet(view)
        if rank == 1 and next(failures, False):
            raise RuntimeError("connection refused")

    step._meet = meet_badly
    step.start()
    for number in range(1, 4):
        if broken == "step" and number == 2 and rank == 1:
            step._regroup(step._part())
        step.compute(task.batch(torch.arange(4) + 4 * (2 * number + rank)), number)
    step.close()
    results.put((rank, word.events, [p.detach().tolist() for p in model.parameters()]))


class Thawing(Regression):
    """A task that trains the first layer from its second loss on, though it was frozen when the run began."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        self._steps = getattr(self, "_steps", 0) + 1
        if self._steps == 2:
            model.requires_grad_(True)
        return super().loss(model, batch)


def thaw(rank: int, places: Any, results: Any) -> None:
    """Two steps; what was raised in the second."""
    model = perceptron().double()
    model.get_submodule("0").requires_grad_(False)
    word = Word(rank, places)
    task, options = Thawing(lambda: model), Options(spec=LayoutSpec(dp=2))
    step = LayoutStep(task, model, word, VIEW, "127.0.0.1", SGD, WorkerStats(), options)
    step.start()
    step.compute(task.batch(torch.arange(4)), 1)
    try:
        step.compute(task.batch(torch.arange(4)), 1)
    except UsageError as error:
        results.put((rank, error.message))


def get_ahead(rank: int, places: Any, results: Any) -> None:
    """A step together, and one that only worker 1 has got through when the group breaks; what each then holds."""
    torch.manual_seed(0)
    rendezvous.VIEW_TIMEOUT_S = 0.05
    model = perceptron().double()
    task, rule = Regression(lambda: model), OptimizerSpec(name="adamw", lr=0.1)
    step = LayoutStep(
        task, model, Word(rank, places), VIEW, "127.0.0.1", rule, WorkerStats(), Options(spec=LayoutSpec(dp=2))
    )
    step.start()
    step.compute(task.batch(torch.arange(4) + 4 * rank), 1)
    before = [p.detach().tolist() for p in model.parameters()]
    if rank == 1:
        step.replica.optimizer.step()  # with the gradients that it has
        step.step = 2
    moved = [p.detach().tolist() for p in model.parameters()]
    step._regroup(step._part())
    moments = [
        {name: value.tolist() for name, value in step.replica.state()[key].items()} for key in step.replica.state()
    ]
    results.put((rank, before, moved, [p.detach().tolist() for p in model.parameters()], moments, step.step))
    step.close()


def results_of(work: Callable[..., None], *arguments: str) -> list[Any]:
    """What `work` of two workers put down, by rank."""
    context = multiprocessing.get_context("spawn")
    places, results = context.Queue(), context.Queue()
    workers = [context.Process(target=work, args=(rank, *arguments, places, results), daemon=True) for rank in range(2)]
    for worker in workers:
        worker.start()
    return sorted(results.get(timeout=60) for _ in workers)


def test_a_broken_meeting_or_step_is_repeated() -> None:
    (_, _, whole), _ = results_of(train, "nothing")
    for broken in ("rendezvous", "step"):
        (_, events, first), (_, _, second) = results_of(train, broken)
        assert first == second == whole
        assert events.count("meeting_failed") == (2 if broken == "rendezvous" else 0)


def test_a_fault_of_the_task_is_not_repeated_for_ever() -> None:
    _, (_, reason) = results_of(fail)
    assert reason == "shapes do not fit"


def test_a_model_that_becomes_another_is_refused_before_its_gradients_meet() -> None:
    said = {reason for _, reason in results_of(thaw)}
    assert said == {"0.weight did not require a gradient when the run began, and does now"}


def test_all_go_on_from_the_state_of_whoever_got_furthest() -> None:
    (_, before, still, first, moments, reached), (_, _, moved, second, others, ahead) = results_of(get_ahead)
    assert still == before != moved
    assert first == second == moved
    assert moments == others
    assert all(moment["step"] == 2 for moment in moments)
    assert reached == ahead == 2
