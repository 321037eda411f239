"""A worker's part in an evaluation that others may be at too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from roadtrain.loop.together import evaluate_together
from roadtrain.membership.messages import FIGURES_BYTES_MAX
from roadtrain.session.control import Control


class Answers:
    """A coordinator that answers so, one after the other, and says all figures after so many deliveries."""

    def __init__(
        self, answers: Sequence[tuple[int, ...] | None], told: tuple[bytes, ...] = (), after: int = 99
    ) -> None:
        self._answers, self._told, self._after = list(answers), told, after
        self.delivered: list[tuple[int, bytes]] = []
        self.events: list[str] = []

    def evaluate(self, evaluation: str, chunks: int) -> tuple[int, ...] | None:
        return self._answers.pop(0)

    def evaluated(self, evaluation: str, chunk: int, figures: bytes) -> None:
        self.delivered.append((chunk, figures))

    def figures(self, evaluation: str) -> tuple[bytes, ...] | None:
        return self._told if len(self.delivered) >= self._after else None

    def event(self, name: str, **details: Any) -> None:
        self.events.append(name)


def evaluated(control: Answers, chunks: int = 4, size: int = 1) -> tuple[tuple[bytes, ...], list[int]]:
    computed: list[int] = []

    def compute(chunk: int) -> bytes:
        computed.append(chunk)
        return bytes([chunk]) * size

    return evaluate_together(cast(Control, control), "it", chunks, compute), computed


ALL = (b"\0", b"\1", b"\2", b"\3")


def test_it_computes_what_it_is_given_and_is_told_the_rest() -> None:
    others = (b"a", b"b", b"c", b"d")
    control = Answers([(0,), (3,), None], others, after=2)
    assert evaluated(control) == (others, [0, 3])
    assert control.delivered == [(0, b"\0"), (3, b"\3")]


def test_it_stops_when_others_have_computed_what_it_still_has_in_hand() -> None:
    control = Answers([(0, 1, 2), None], ALL, after=1)
    assert evaluated(control) == (ALL, [0])


def test_without_an_answer_it_computes_what_it_lacks() -> None:
    assert evaluated(Answers([None])) == (ALL, [0, 1, 2, 3])
    assert evaluated(Answers([(2,), None])) == (ALL, [2, 0, 1, 3])


def test_what_it_is_asked_for_twice_it_says_twice_and_computes_once() -> None:
    """The coordinator was started again."""
    control = Answers([(0, 1), (0, 1), None])
    assert evaluated(control) == (ALL, [0, 1, 2, 3])
    assert [chunk for chunk, _ in control.delivered] == [0, 1, 0, 1]


def test_what_is_too_large_to_be_passed_on_it_keeps() -> None:
    control = Answers([(1,)])
    found, computed = evaluated(control, size=FIGURES_BYTES_MAX + 1)
    assert computed == [1, 0, 2, 3]
    assert [len(each) for each in found] == [FIGURES_BYTES_MAX + 1] * 4
    assert (control.delivered, control.events) == ([], ["evaluated_alone"])
