"""What is seen of a simulation that takes a while, where stderr is no terminal."""

from __future__ import annotations

import pytest

from roadtrain.cli import simulation_progress
from roadtrain.cli.simulation_progress import SimulationProgress


class Clock:
    """Seconds that pass when the test says so."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(simulation_progress, "time", made)
    return made


def watched(clock: Clock, *, quiet: bool) -> None:
    """Half of a simulation in 20 s, looked at four times a second."""
    with SimulationProgress(160, quiet=quiet) as progress:
        for look in range(80):
            clock.now += 0.25
            progress.watch(look + 1, 2.0 * look)


def test_a_line_now_and_then_less_often_the_longer_it_takes(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    watched(clock, quiet=False)
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert lines[0] == "8/160 steps  virtual time 14.0 s  2 s, about 38 s left"
    assert [line.partition("/")[0] for line in lines] == ["8", "24", "56"]
    assert said.out == ""


def test_a_program_that_reads_the_report_is_told_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    watched(clock, quiet=True)
    assert capsys.readouterr().err == ""


def test_a_quick_one_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with SimulationProgress(10, quiet=False) as progress:
        for step in range(10):
            progress.watch(step + 1, 1.0)
    assert capsys.readouterr().err == ""
