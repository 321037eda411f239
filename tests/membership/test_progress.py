"""A worker whose heartbeat goes on and whose training does not, while others wait for it."""

from __future__ import annotations

from people import Run

from roadtrain.membership.progress import FIRST_STEP_S, SLOW_S, STUCK_S


def trained(steps: int) -> Run:
    """Two workers that have done so many steps of a second each."""
    run = Run(2)
    for step in range(1, steps + 1):
        for name in ("w0", "w1"):
            run.beat(name, step, float(step))
    return run


def wait(run: Run, begin: float, seconds: float, *, waits: bool = True) -> float:
    """w1 goes on beating in the same step, and w0 waits for it, or does not."""
    step, now = run.workers["w1"].step, begin
    while now < begin + seconds:
        now += 1.0
        run.beat("w0", step + 1, now, waits=waits)
        run.beat("w1", step, now)
        run.tick(now)
    return now


def test_a_step_that_takes_long_is_said_once_and_one_that_has_hung_is_lost() -> None:
    run = trained(10)
    now = wait(run, 10.0, SLOW_S + 5)
    assert run.coordinator.warnings == [f"w1 has been in step 11 for {SLOW_S + 1:.0f} s"]
    assert run.alive() == ["w0", "w1"]
    wait(run, now, STUCK_S)
    assert run.alive() == ["w0"]
    assert len(run.coordinator.warnings) == 1


def test_nobody_is_lost_whom_nobody_waits_for() -> None:
    run = trained(10)
    wait(run, 10.0, 2 * STUCK_S, waits=False)
    assert run.alive() == ["w0", "w1"]
    assert run.coordinator.warnings == []


def test_the_first_step_may_take_long() -> None:
    run = Run(2)
    wait(run, 0.0, FIRST_STEP_S - 10)
    assert run.alive() == ["w0", "w1"]


def test_slow_steps_are_given_more_time() -> None:
    run = Run(2)
    for step in range(1, 4):
        for name in ("w0", "w1"):
            run.beat(name, step, 30.0 * step)
    wait(run, 90.0, STUCK_S + 100)
    assert run.alive() == ["w0", "w1"]
