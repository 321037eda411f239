"""What is seen of a prediction that takes a while, where stderr is no terminal."""

from __future__ import annotations

import pytest

from roadtrain.cli import predict_progress
from roadtrain.cli.predict_progress import PredictProgress
from roadtrain.launch.prediction import PredictSnapshot


class Clock:
    """Seconds that pass when the test says so."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(predict_progress, "time", made)
    return made


def watched(clock: Clock, seconds: int, *, quiet: bool, starts_s: float = 0.0) -> None:
    """100 rows a second of 4,000 that are left of 5,000, when the workers have started; one of them is lost after ten."""
    with PredictProgress(quiet=quiet) as progress:
        clock.now += starts_s
        for second in range(1, seconds + 1):
            clock.now += 1
            progress.watch(PredictSnapshot(1000 + 100 * second, 5000, 0, 1000, lost=int(second >= 10)))


def test_rows_rate_and_the_time_that_is_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    watched(clock, 20, quiet=False)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "1,200/5,000 rows  100 rows/s  0:02, 0:38 left",
        "1,700/5,000 rows  100 rows/s  0:07, 0:33 left",
        "a worker is lost; another is started, and its rows are asked of others",
        "2,700/5,000 rows  100 rows/s  0:17, 0:23 left",
    ]


def test_how_long_workers_take_to_start_says_nothing_of_what_is_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    watched(clock, 8, quiet=False, starts_s=30)
    assert capsys.readouterr().err.splitlines() == [
        "1,100/5,000 rows  0:31",
        "1,600/5,000 rows  100 rows/s  0:36, 0:34 left",
    ]


def test_a_program_that_reads_the_answer_is_told_of_losses_alone(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    watched(clock, 20, quiet=True)
    assert [line.split(";")[0] for line in capsys.readouterr().err.splitlines()] == ["a worker is lost"]


def test_a_quick_one_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    watched(clock, 1, quiet=False)
    assert capsys.readouterr().err == ""
