"""A worker's lines of metrics, and the step at which a loss stopped to be a number."""

from __future__ import annotations

import math
from typing import Any

import torch
from team import Gathering, Word

from roadtrain.session.stats import WorkerStats
from roadtrain.trainer.metrics import Metrics

NAN, INFINITE = float("nan"), float("inf")


def lines(losses: list[float], every: int) -> list[dict[str, Any]]:
    """What is logged of steps with these losses."""
    word = Word(0, Gathering(1))
    metrics = Metrics(word, WorkerStats(), 0, torch.device("cpu"))
    for step, loss in enumerate(losses, 1):
        metrics.computed(step, torch.tensor(loss))
        if step % every == 0:
            metrics.line(step, 0)
    return word.metrics


def steps(logged: list[dict[str, Any]]) -> list[tuple[int, bool]]:
    return [(line["step"], math.isfinite(line["loss"])) for line in logged]


def test_the_step_whose_loss_was_first_no_number_has_a_line():
    assert steps(lines([1.0, 1.0, 1.0, NAN, INFINITE, NAN], 3)) == [(3, True), (4, False), (6, False)]


def test_it_is_said_once():
    assert steps(lines([1.0, NAN, NAN, NAN, NAN, NAN], 2)) == [(2, False), (4, False), (6, False)]


def test_a_number_in_between_begins_anew():
    assert steps(lines([1.0, NAN, 1.0, 1.0, 1.0, 1.0, NAN, NAN, NAN], 3)) == [
        (3, True),
        (6, True),
        (7, False),
        (9, False),
    ]


def test_a_loss_that_is_a_number_has_no_other_line():
    assert steps(lines([NAN, 1.0], 2)) == [(2, True)]
