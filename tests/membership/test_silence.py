"""Where most workers are silent, it may be the coordinator that is cut off: the others may choose another one."""

from __future__ import annotations

from people import Run

from roadtrain.membership.phase import Phase
from roadtrain.membership.silence import CUT_OFF_S


def beaten(run: Run, slots: str, until: float, begin: int = 1) -> None:
    """These are heard every second, and the coordinator looks at its watch."""
    for second in range(begin, int(until) + 1):
        run.beats(slots, float(second))
        run.tick(second + 0.1)


def test_when_most_are_silent_nobody_is_lost_and_all_may_come_back():
    run = Run(4)
    beaten(run, "0123", 5)
    beaten(run, "0", 29, begin=6)
    assert run.alive() == ["w0", "w1", "w2", "w3"]
    run.beats("0123", 30.0)
    run.tick(30.1)
    assert run.coordinator.phase is Phase.TRAINING
    assert run.alive() == ["w0", "w1", "w2", "w3"]


def test_half_are_enough():
    run = Run(2)
    beaten(run, "01", 5)
    beaten(run, "0", 11, begin=6)
    assert run.alive() == ["w0"]


def test_for_too_long_it_is_the_end_and_says_why():
    run = Run(4)
    beaten(run, "0123", 5)
    beaten(run, "0", CUT_OFF_S + 11, begin=6)
    assert run.coordinator.phase is Phase.OVER
    assert run.coordinator.error is not None
    assert "most workers have not been heard of for 60 s" in run.coordinator.error.message


def test_broken_connections_are_no_silence():
    run = Run(4, returns=True)
    beaten(run, "0123", 5)
    run.coordinator.disconnected(run.workers["w1"], 5.0)
    run.beats("023", 6.0)
    run.tick(6.1)
    assert run.alive() == ["w0", "w2", "w3"]
