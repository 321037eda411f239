"""What a person at a lent machine is told."""

from __future__ import annotations

from roadtrain.orchestrate.crew import Hand
from roadtrain.orchestrate.crew_progress import CrewProgress
from roadtrain.orchestrate.machine import WorkerOrder


def worker(slot: int) -> Hand:
    common = {"run": "r", "generation": 0, "attempt": 1, "token": "", "device": 0, "archive": "", "resume": None}
    return Hand(WorkerOrder(slot=slot, wants_code=False, **common))


def test_who_begins_how_far_and_who_ends() -> None:
    said: list[str] = []
    progress = CrewProgress(said.append)
    first, second = worker(0), worker(1)
    progress.look([first, second], 0.0)
    first.step, first.loss, second.step = 1200, 0.25, 7
    progress.look([first, second], 4.9)
    assert said == ["r: w0 begins", "r: w1 begins"]
    progress.look([first, second], 5.0)
    assert said[2:] == ["r: w0 is at step 1,200, loss 0.25", "r: w1 is at step 7"]
    progress.look([first, second], 14.0)
    assert len(said) == 4, "lines become rarer"
    first.state, second.state, second.code = "ended", "ended", 1
    progress.look([first, second], 14.1)
    progress.look([first, second], 14.2)
    assert said[4:] == ["r: w0 has ended at step 1,200, loss 0.25", "r: w1 has ended with exit code 1"]


def test_one_that_is_taken_away_and_one_that_is_started_again() -> None:
    said: list[str] = []
    progress = CrewProgress(said.append)
    progress.look([worker(0)], 0.0)
    progress.look([], 1.0)
    progress.look([worker(0)], 2.0)
    assert said == ["r: w0 begins", "r: w0 has ended", "r: w0 begins"]
