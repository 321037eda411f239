"""A replica that agrees by all-reduce: meetings that fail for no reason that lasts."""

from __future__ import annotations

from typing import Any

import torch
from team import Regression, perceptron
from torch import multiprocessing

from roadtrain.message import Member, PeerId, View
from roadtrain.sync.rule import RuleSpec
from roadtrain.sync.view import first_view
from roadtrain.trainer import allreduce
from roadtrain.trainer.allreduce import AllReduceStep
from roadtrain.trainer.tally import Tally

MEMBERS = (Member("w0", 1), Member("w1", 2))


class Word:
    """A coordinator that knows one view, and passes on meeting points by a queue."""

    def __init__(self, rank: int, places: Any) -> None:
        self.me: PeerId = f"w{rank}"
        self.incarnation = rank + 1
        self.events: list[str] = []
        self._places = places

    def may_step(self, step: int) -> bool:
        return True

    def log(self, record: dict[str, Any]) -> None: ...

    def event(self, name: str, **details: Any) -> None:
        self.events.append(name)

    def is_first(self) -> bool:
        return self.me == "w0"

    def next_view(self, after: int, timeout_s: float) -> View:
        raise TimeoutError("nobody is lost")

    def meeting_point(self, view: View, mine: str | None) -> str:
        if mine is None:
            return self._places.get(timeout=20)
        self._places.put(mine)
        return mine


def train(rank: int, broken: str, places: Any, results: Any) -> None:
    """Three steps of worker `rank`. The first two meetings fail at worker 1, or its group is broken before the second step."""
    torch.manual_seed(0)
    allreduce.VIEW_TIMEOUT_S = 0.05
    word, model = Word(rank, places), perceptron().double()
    task = Regression(lambda: model)
    view = first_view(MEMBERS, [8], sharded=True)
    step = AllReduceStep(task, model, word, view, "127.0.0.1", RuleSpec(name="sgd", lr=0.1), Tally())
    failures, meet = iter([broken == "meeting"] * 2), step._meet

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


def results_of(broken: str) -> list[tuple[int, list[str], list[Any]]]:
    context = multiprocessing.get_context("spawn")
    places, results = context.Queue(), context.Queue()
    workers = [context.Process(target=train, args=(rank, broken, places, results), daemon=True) for rank in range(2)]
    for worker in workers:
        worker.start()
    return sorted(results.get(timeout=60) for _ in workers)


def test_a_broken_meeting_or_step_is_repeated() -> None:
    (_, _, whole), _ = results_of("nothing")
    for broken in ("meeting", "step"):
        (_, events, first), (_, _, second) = results_of(broken)
        assert first == second == whole
        assert events.count("meeting_failed") == (2 if broken == "meeting" else 0)
