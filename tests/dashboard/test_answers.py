from __future__ import annotations

import time

import pytest

from roadtrain.dashboard import answers
from roadtrain.dashboard.answers import Answers


def test_what_is_slow_to_make_is_given_out_again_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    made: list[float] = []

    def make() -> list[float]:
        clock[0] += 0.1
        made.append(clock[0])
        return [float("nan"), len(made)]

    given = Answers()
    assert given.give("a", make).body == b"[null,1]"
    clock[0] += 4.8
    assert given.give("a", make).body == b"[null,1]"
    assert given.give("b", make).body == b"[null,2]", "another question"
    clock[0] += 0.2
    assert given.give("a", make).body == b"[null,3]"


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "KEPT_BYTES_MAX", 1000)
    monkeypatch.setattr(answers, "SHARE", 1e-9)
    given, made = Answers(), []
    for number in range(100):
        given.give(f"question {number}", lambda: made.append(0) or "x" * 100)
    assert given.give("question 0", lambda: "anew").body == b'"anew"'
