"""What is counted and told of contributions that were refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import torch

from roadtrain.session.control import Control
from roadtrain.session.incidents import Incidents
from roadtrain.session.joining import Begun
from roadtrain.sync.effects import Apart, Committed, Diverged, Event, HandedOff, Refused
from roadtrain.sync.fragment import Fragment, Piece
from roadtrain.sync.strategy import Strategy

FRAGMENTS = [
    Fragment((Piece("w", 0, 2), Piece("b", 0, 1)), torch.float32),
    Fragment((Piece("mean", 0, 2),), torch.float32, buffers=True),
]


def make(every: int = 1) -> tuple[Incidents, list[dict[str, Any]]]:
    told: list[dict[str, Any]] = []
    control = SimpleNamespace(event=lambda name, **details: told.append({"event": name, **details}))
    begun = Begun(step=10, clock=4)
    strategy = SimpleNamespace(steps_of=lambda clocks, begun: begun + clocks * every)
    return Incidents(cast(Control, control), FRAGMENTS, begun.step_of(cast(Strategy, strategy))), told


def poison(fragment: int, clock: int, *accepted: str) -> list[Event]:
    return [Refused(fragment, "w1", clock, "not finite"), Committed(fragment, clock, accepted)]


def test_the_first_refusal_is_told_with_its_worker_and_step() -> None:
    incidents, told = make()
    for clock in (5, 6, 7):
        incidents.take(poison(0, clock))
    assert told == [
        {"event": "refused", "of": "w1", "step": 11, "what": "parameter w or 1 others", "reason": "not finite"}
    ]
    assert (incidents.counts().refused, incidents.counts().refused_since) == (3, 11)


def test_a_contribution_of_a_period_is_named_by_its_first_step() -> None:
    incidents, told = make(every=5)
    incidents.take(poison(0, 6))
    assert told[0]["step"] == incidents.counts().refused_since == 16


def test_a_buffer_is_told_by_itself_and_does_not_stop_training() -> None:
    incidents, told = make()
    incidents.take(poison(1, 5))
    incidents.take(poison(0, 5, "w0"))
    assert [event["what"] for event in told] == ["buffer mean", "parameter w or 1 others"]
    assert incidents.counts().refused_since == 0


def test_what_else_happens_is_counted() -> None:
    incidents, told = make()
    incidents.take([HandedOff(0, 3), Diverged(0, 4), Refused(0, "w0", 0, "foreign")])
    counts = incidents.counts()
    assert (counts.handoffs, counts.diverged, counts.refused) == (1, 1, 1)
    assert told == [{"event": "diverged", "fragment": 0, "version": 4}]


def test_workers_that_differ_are_told_once_of_each_thing() -> None:
    incidents, told = make()
    for _ in range(3):
        incidents.take([Apart("learning rate", ("w0", "w1")), Apart("model", ("w0", "w1"))])
    assert told == [{"event": "apart", "what": what, "workers": ["w0", "w1"]} for what in ("learning rate", "model")]
