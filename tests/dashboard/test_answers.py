"""Answers that are given out again, and for how long."""

from __future__ import annotations

import time

import pytest
from starlette.requests import Request

from roadtrain.dashboard import answers
from roadtrain.dashboard.answers import Answers

ANY = Request({"type": "http", "headers": []})
FRESH = Request({"type": "http", "headers": [(b"cache-control", b"no-cache")]})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, and what the processor has worked of it: as much, where nothing else is said."""
    made = [100.0, 0.0]
    monkeypatch.setattr(time, "monotonic", lambda: made[0])
    monkeypatch.setattr(time, "thread_time", lambda: made[1])
    return made


class Slow:
    """Takes so long to make, of which the processor works `busy_s`."""

    def __init__(self, clock: list[float], busy_s: float) -> None:
        self._clock, self._busy_s, self.times = clock, busy_s, 0

    def __call__(self) -> list[float]:
        self._clock[0] += 0.5
        self._clock[1] += self._busy_s
        self.times += 1
        return [float("nan"), self.times]


def test_what_is_slow_to_make_is_given_out_again_for_a_while(clock: list[float]) -> None:
    given, make = Answers(), Slow(clock, 0.01)
    assert given.give(ANY, "a", make).body == b"[null,1]"
    clock[0] += 0.49
    assert given.give(ANY, "a", make).body == b"[null,1]"
    assert given.give(ANY, "b", make).body == b"[null,2]", "another question"
    assert given.give(ANY, "a", make).body == b"[null,3]", "0.5 s have passed"


def test_no_answer_is_old_and_who_wants_it_fresh_gets_it_so(clock: list[float]) -> None:
    given, make = Answers(), Slow(clock, 0.5)
    given.give(ANY, "a", make)
    assert given.give(FRESH, "a", make).body == b"[null,2]"
    clock[0] += 0.99
    assert given.give(ANY, "a", make).body == b"[null,2]"
    clock[0] += 0.02
    assert given.give(ANY, "a", make).body == b"[null,3]", "however long it took"


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "KEPT_BYTES_MAX", 1000)
    monkeypatch.setattr(answers, "SHARE", 1e-9)
    given, made = Answers(), []
    for number in range(100):
        given.give(ANY, f"question {number}", lambda: made.append(0) or "x" * 100)
    assert given.give(ANY, "question 0", lambda: "anew").body == b'"anew"'
