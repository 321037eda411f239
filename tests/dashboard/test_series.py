from __future__ import annotations

from itertools import pairwise
from typing import Any

from roadtrain.dashboard.series import POINTS, Series


def line(worker: str, time_s: float, step: int, **more: Any) -> dict[str, Any]:
    return {"worker": worker, "time_s": time_s, "step": step, "loss": 1 / step, **more}


def test_totals_are_over_all_workers_and_losses_are_means_of_those_that_spoke() -> None:
    series = Series([line("w0", 0.0, 1, samples=8), line("w1", 0.1, 2, samples=8), line("w0", 1.0, 4, samples=32)])
    columns = series.columns()
    assert columns["time_s"] == [0.0, 1.0]
    assert columns["samples"] == [8, 40]
    assert columns["loss"] == [1.0, (1 / 2 + 1 / 4) / 2]
    assert columns["step"] == [1, 2], "that of the slower one"


def test_a_worker_that_begins_anew_takes_nothing_away() -> None:
    series = Series([line("w0", 0.0, 1, bytes_sent=100), line("w0", 1.0, 2, bytes_sent=300)])
    for at, sent in ((2.0, 50), (3.0, 80)):
        series.take(line("w0", at, 3, bytes_sent=sent))
    assert series.columns()["bytes_sent"] == [100, 300, 350, 380]
    assert series.lanes["w0"].columns()["bytes_sent"] == [100, 300, 350, 380]


def test_a_long_run_has_as_few_points_from_its_beginning_to_its_end() -> None:
    series = Series(line("w0", second, second + 1) for second in range(20_000))
    times = [time_s for time_s in series.columns()["time_s"] if time_s is not None]
    assert POINTS // 2 <= len(times) <= POINTS
    assert times[0] == 0
    assert times[-1] > 19_900
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert max(gaps) <= 2.5 * min(gaps)


def test_validation_is_where_it_was() -> None:
    series = Series([line("w0", 0.0, 1), line("w0", 1.0, 2, val_loss=0.75), line("w0", 2.0, 3)])
    assert series.columns()["val_loss"] == [None, 0.75, None]
