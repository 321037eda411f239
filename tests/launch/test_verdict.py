"""When a run that came to its end has failed all the same."""

from __future__ import annotations

import math

import pytest

from roadtrain.launch.verdict import diverged, not_trained


@pytest.mark.parametrize(
    ("since", "begun", "last", "failed"),
    [
        (0, 0, 100, False),  # nothing was refused, or something was accepted after it
        (1, 0, 100, True),
        (1, 0, 1, True),  # all of a short run
        (91, 0, 100, True),
        (92, 0, 100, False),
        (10, 0, 10, False),  # one bad batch at the end
        (9, 0, 10, True),
        (101, 100, 101, True),  # gone on with
    ],
)
def test_a_run_whose_last_part_was_refused_has_failed(since: int, begun: int, last: int, failed: bool) -> None:
    for name in ("refused_since", "left_out_since"):
        error = not_trained([{name: 0}, {name: since}], begun, last)
        assert (error is not None) == failed
        assert error is None or f"not trained since step {since}:" in error.message


@pytest.mark.parametrize(
    ("since", "val_loss", "said"),
    [
        ({}, 1.0, None),
        ({"w0": 3}, 1.0, None),  # the other has a loss
        ({"w0": 3, "w1": 5}, 1.0, "not finite since step 3"),
        ({"w0": 3}, math.nan, "not finite since step 3"),
        ({}, math.inf, "its loss is not finite"),
        ({}, None, None),
    ],
)
def test_a_loss_that_is_no_number_at_the_end(since: dict[str, int], val_loss: float | None, said: str | None) -> None:
    error = diverged(since, ["w0", "w1"], val_loss)
    assert (None if error is None else said) == said
    assert error is None or (said is not None and error.message.endswith(said))
