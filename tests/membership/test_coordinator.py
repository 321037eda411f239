"""The coordinator's decisions, input by input; time is handed in."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest
from people import Run

from roadtrain.errors import PeerError, RunFailed, UsageError
from roadtrain.membership.coordinator import GATHER_S, LATE_S, Coordinator
from roadtrain.membership.detector import SILENT_MIN_S
from roadtrain.membership.ending import CLOSING_S
from roadtrain.membership.messages import (
    Accepted,
    Done,
    Failed,
    Finish,
    Freeze,
    Frozen,
    Goodbye,
    Happened,
    Metrics,
    NewView,
    Rendezvous,
    Result,
    Shutdown,
    Spoils,
    StopAt,
    TorchStore,
    ToWorker,
    Unmodified,
    Untrained,
    Warned,
)
from roadtrain.membership.phase import Phase
from roadtrain.membership.registry import GONE_S, NoPlace, Registry
from roadtrain.view import Member

# ---------------------------------------------------------------------------------------------------- gathering


def test_the_run_begins_when_all_have_joined() -> None:
    run = Run(3, joined=False)
    for slot in (1, 0):
        run.join(slot)
        assert run.told(Accepted) == {f"w{slot}": Accepted(f"w{slot}", 2 - slot)}
        assert run.told(NewView) == {}
        assert run.coordinator.phase is Phase.GATHERING
        assert run.events("joined") == [
            {"event": "joined", "worker": f"w{slot}", "pid": 4000 + slot, "host": f"host{slot}"}
        ]
    assert run.coordinator.started_s is None
    run.join(2, now=5.0)
    assert run.coordinator.phase is Phase.TRAINING
    assert run.coordinator.started_s == 5.0
    told = run.told(NewView)
    assert list(told) == ["w0", "w1", "w2"]
    view = told["w0"].view
    assert view.number == 1
    assert view.members == (Member("w0", 2), Member("w1", 1), Member("w2", 3))
    assert set(view.owners) == {"w0", "w1", "w2"}
    assert told["w2"].addresses == {"w0": "127.0.0.1:5000", "w1": "127.0.0.1:5001", "w2": "127.0.0.1:5002"}


def test_nobody_is_overdue_for_the_time_before_the_run() -> None:
    run = Run(2, joined=False)
    run.join(0, now=0.0)
    run.join(1, now=100.0)
    run.tick(100.0 + SILENT_MIN_S)
    assert run.coordinator.phase is Phase.TRAINING
    assert run.out.events == []


def test_other_weights_are_told_to_all() -> None:
    """Whose digest differs from the first member's takes its weights over."""
    run = Run(2, joined=False)
    run.join(1, digests={"trained": "other", "frozen": "none"})
    run.join(0)
    assert run.coordinator.phase is Phase.TRAINING
    digests = {
        "w0": {"trained": "same", "frozen": "none"},
        "w1": {"trained": "other", "frozen": "none"},
    }
    assert {name: told.first for name, told in run.told(NewView).items()} == {"w0": digests, "w1": digests}
    assert again(run, "w1", NewView).first == digests, "it may not have heard"


def test_who_is_out_is_told_no_weights() -> None:
    run = Run(3)
    run.exited("w2")
    told = run.told(NewView)
    assert told["w2"].first == {}
    assert set(told["w0"].first) == {"w0", "w1"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"structure": "another"}, "w1 has another model"),
        ({"sizes": (100, 100)}, "w1 has another model"),
        ({"plan": "[job]"}, "w1 has other settings"),
    ],
    ids=["structure", "sizes", "plan"],
)
def test_another_model_or_plan_ends_the_run_before_it_begins(change: dict[str, Any], said: str) -> None:
    run = Run(2, joined=False)
    run.join(0)
    assert run.join(1, **change) is None
    assert run.coordinator.phase is Phase.OVER
    assert isinstance(run.coordinator.error, RunFailed)
    assert said in run.coordinator.error.line()
    assert set(run.told(Shutdown)) == {"w0"}


def test_a_worker_that_ends_before_it_has_joined_ends_the_run() -> None:
    run = Run(2, joined=False)
    run.join(0)
    run.exited("w1")
    assert run.coordinator.phase is Phase.OVER
    assert run.coordinator.error is not None
    assert "w1 ended before it had joined" in run.coordinator.error.message


def test_a_fleet_that_never_gathers_ends_the_run() -> None:
    run = Run(2, joined=False)
    run.join(0)
    run.tick(60.0)
    assert run.coordinator.phase is Phase.GATHERING
    run.tick(3600.0)
    assert run.coordinator.phase is Phase.OVER
    assert isinstance(run.coordinator.error, RunFailed)


def test_a_script_that_never_attaches_is_told_to() -> None:
    coordinator = Coordinator(Registry(2), script=True)
    coordinator.tick(1e6)
    assert coordinator.error is not None
    assert coordinator.error.message == "only 0 of 2 workers attached within 180 s"
    assert "rt.attach(model, optimizer)" in coordinator.error.hint


def test_an_interrupt_before_the_run_has_begun_ends_it() -> None:
    run = Run(2, joined=False)
    run.join(0)
    run.coordinator.interrupt(1.0)
    assert run.coordinator.phase is Phase.OVER
    assert run.coordinator.interrupted
    assert run.coordinator.error is None


@pytest.mark.parametrize(
    ("said", "kind"),
    [(Failed("no such file", usage=True), UsageError), (Failed("no memory"), RunFailed)],
)
def test_a_worker_that_cannot_begin_says_why(said: Failed, kind: type[Exception]) -> None:
    run = Run(2, joined=False)
    run.join(0)
    run.says("w0", said)
    assert run.coordinator.phase is Phase.OVER
    assert isinstance(run.coordinator.error, kind)
    assert said.message in run.coordinator.error.message


# --------------------------------------------------------------------------------------------------- training


def test_metrics_and_events_carry_the_name_of_their_worker() -> None:
    run = Run(2)
    assert run.says("w1", Metrics(3, 0.5)).metrics == [{"worker": "w1", "step": 3, "loss": 0.5}]
    assert run.says("w1", Happened("checkpoint", {"step": 3, "worker": "w0"})).events == [
        {"event": "checkpoint", "step": 3, "worker": "w1"}
    ]


def test_the_first_step_is_noted() -> None:
    run = Run(2)
    run.beat("w0", 0, now=1.0)
    assert run.coordinator.first_step_s is None
    run.beat("w1", 1, now=2.5)
    run.beat("w0", 4, now=3.0)
    assert run.coordinator.first_step_s == 2.5
    assert run.workers["w0"].step == 4


def test_a_run_without_a_heartbeat_has_a_first_step_too() -> None:
    run = Run(2)
    run.says("w0", Metrics(1, 0.5), now=0.3)
    run.beat("w1", 2, now=0.5)
    assert run.coordinator.first_step_s == 0.3
    run = Run(1)
    run.done("w0", step=0, now=0.1)
    assert run.coordinator.first_step_s is None
    run = Run(1)
    run.done("w0", step=2, now=0.4)
    assert run.coordinator.first_step_s == 0.4


def test_a_meeting_point_is_passed_on_to_all() -> None:
    run = Run(3)
    run.says("w0", Rendezvous(1, 0, "host:1"))
    assert run.told(Rendezvous) == {f"w{slot}": Rendezvous(1, 0, "host:1") for slot in range(3)}


def beating(run: Run, slots: str, seconds: int) -> None:
    """These beat every second, and time is looked at."""
    for now in range(1, seconds + 1):
        run.beats(slots, float(now))
        run.tick(float(now))


def test_a_silent_worker_is_lost() -> None:
    run = Run(3)
    beating(run, "02", 2)
    assert run.alive() == ["w0", "w1", "w2"]
    run.beats("02", 3.0)
    run.tick(3.0)
    assert run.events("lost") == [{"event": "lost", "worker": "w1"}]
    (handoff,) = run.events("handoff")
    assert run.coordinator.handoffs == len(handoff["fragments"]) > 0
    told = run.told(NewView)
    assert set(told) == {"w0", "w1", "w2"}, "one that only slept learns that it is out"
    assert told["w1"].addresses == {}
    assert set(told["w0"].addresses) == {"w0", "w2"}
    view = told["w0"].view
    assert told["w1"].view == told["w2"].view == view
    assert view.number == 2
    assert view.peers == ("w0", "w2")
    assert set(handoff["to"]) <= {"w0", "w2"}
    for fragment in handoff["fragments"]:
        assert view.owners[fragment] in handoff["to"]
    run.tick(3.1)
    assert run.out.events == []


def test_who_spoils_what_it_contributes_to_is_put_out_and_does_not_come_back() -> None:
    run = Run(3)
    run.says("w0", Spoils("w2", "a contribution is not finite"))
    assert run.events("quarantined") == [
        {"event": "quarantined", "worker": "w2", "reason": "a contribution is not finite"}
    ]
    assert run.alive() == ["w0", "w1"]
    assert not run.coordinator.restarts.wanted
    assert "w2 is quarantined" in run.coordinator.warnings[0]
    run.says("w1", Spoils("w2", "again"))
    assert not run.events("quarantined")
    with pytest.raises(NoPlace, match="quarantined: a contribution is not finite"):
        run.join(2)


def test_the_last_one_is_not_put_out() -> None:
    run = Run(1)
    run.says("w0", Spoils("w0", "a contribution is not finite"))
    assert run.alive() == ["w0"]


def test_a_broken_connection_is_lost_sooner_unless_it_comes_back() -> None:
    run = Run(3)
    run.beats("012", now=1.0)
    for name in ("w1", "w2"):
        run.coordinator.disconnected(run.workers[name], 1.0)
    run.coordinator.connected(run.workers["w2"], 1.2)
    run.tick(1.0 + GONE_S)
    assert run.out.events == []
    run.tick(1.0 + GONE_S + 0.01)
    assert [event["worker"] for event in run.events("lost")] == ["w1"]


def test_one_far_away_has_four_round_trips_more_to_come_back() -> None:
    run = Run(2)
    run.workers["w1"].rtt_s = 0.3
    run.coordinator.disconnected(run.workers["w1"], 1.0)
    run.tick(1.0 + GONE_S + 1.1)
    assert run.out.events == []
    run.beats("0", 2.5)
    run.tick(1.0 + GONE_S + 1.3)
    assert [event["worker"] for event in run.events("lost")] == ["w1"]


def test_nobody_was_silent_while_the_coordinator_stood_still() -> None:
    """Ctrl-Z, or a machine that swaps."""
    run = Run(2)
    run.beats("01", 1.0)
    run.tick(1.0)
    run.out = run.coordinator.tick(1.0 + 30.0)
    assert run.out.events == []
    run.out = run.coordinator.tick(1.0 + 30.0 + LATE_S)
    assert run.out.events == []
    run.beat("w0", 1, 32.0)
    run.tick(32.0 + 1.0)
    run.beat("w0", 1, 32.0 + SILENT_MIN_S)
    run.tick(32.0 + SILENT_MIN_S)
    assert [event["worker"] for event in run.events("lost")] == ["w1"]


def test_where_all_ticks_are_late_the_dead_are_missed_all_the_same() -> None:
    """A machine on which there is too much to do: each tick half a second after the one before."""
    run = Run(2)
    run.beats("01", 1.0)
    now = 1.0
    while not run.events("lost") and now < 20.0:
        now += 0.5
        run.beat("w0", 1, now)
        run.out = run.coordinator.tick(now)
    assert [event["worker"] for event in run.events("lost")] == ["w1"]
    assert now < 1.0 + 4 * SILENT_MIN_S


def test_a_process_that_ended_is_lost_at_once_and_once() -> None:
    run = Run(3)
    run.exited("w2", now=1.0)
    assert [event["worker"] for event in run.events("lost")] == ["w2"]
    assert run.told(NewView)["w0"].view.members == (Member("w0", 1), Member("w1", 2))
    run.exited("w2", now=1.1)
    run.tick(1.2)
    assert run.out.events == []


def test_a_worker_that_fails_in_training_is_noted_and_not_the_end() -> None:
    run = Run(3)
    run.says("w1", Failed("out of memory"))
    assert run.events("failed") == [{"event": "failed", "worker": "w1", "message": "out of memory"}]
    assert run.coordinator.phase is Phase.TRAINING
    run.says("w1", Failed("no such file", usage=True))
    assert run.coordinator.phase is Phase.OVER
    assert isinstance(run.coordinator.error, UsageError)
    assert set(run.told(Shutdown)) == {"w0", "w1", "w2"}


def test_the_loss_of_all_is_the_end() -> None:
    run = Run(2)
    run.exited("w0")
    run.exited("w1")
    assert run.coordinator.phase is Phase.OVER
    assert isinstance(run.coordinator.error, RunFailed)
    assert "all workers are lost" in run.coordinator.error.message
    assert "--resume" in run.coordinator.error.hint


def test_the_loss_of_both_holders_of_a_fragment_is_the_end() -> None:
    run = Run(3)
    view = run.coordinator.registry.view
    assert view is not None
    holders = {view.owners[0], view.standbys[0]}
    (left,) = [name for name in view.peers if name not in holders]
    for name in holders:
        assert name is not None
        run.coordinator.disconnected(run.workers[name], 0.0)
    beating(run, left[1:], 1)
    assert run.coordinator.phase is Phase.OVER
    assert run.coordinator.error is not None
    assert "at once" in run.coordinator.error.message
    assert set(run.told(Shutdown)) >= {left}


def test_losses_one_after_the_other_leave_the_last_one_training() -> None:
    run = Run(4)
    for now, name in ((1.0, "w2"), (2.0, "w0"), (3.0, "w3")):
        run.exited(name, now)
        assert run.coordinator.phase is Phase.TRAINING
    assert [worker.name for worker in run.coordinator.registry.alive()] == ["w1"]
    assert run.told(NewView)["w1"].view.standbys == (None,) * 4


# --------------------------------------------------------------------------------------------------- stopping


def stops(run: Run) -> dict[str, int]:
    """The step that each was told to stop at."""
    return {name: told.step for name, told in run.told(StopAt).items()}


def test_synchronous_workers_stop_at_a_step_that_nobody_has_passed() -> None:
    run = Run(3)
    run.out = run.coordinator.interrupt(1.0)
    assert run.told(Freeze) == dict.fromkeys(("w0", "w1", "w2"), Freeze())
    assert run.coordinator.phase is Phase.STOPPING
    run.says("w0", Frozen(7))
    run.says("w1", Frozen(8))
    assert stops(run) == {}
    run.says("w2", Frozen(7))
    assert stops(run) == {"w0": 8, "w1": 8, "w2": 8}


def test_asynchronous_workers_stop_where_they_are() -> None:
    run = Run(3, rounds=False)
    run.coordinator.interrupt(1.0)
    for name, step in (("w0", 7), ("w1", 12), ("w2", 3)):
        run.says(name, Frozen(step))
    assert stops(run) == {"w0": 7, "w1": 12, "w2": 3}


def test_a_stop_does_not_wait_for_the_lost_nor_for_who_is_done() -> None:
    run = Run(3)
    run.done("w0", step=20)
    run.coordinator.interrupt(1.0)
    run.says("w1", Frozen(20))
    assert stops(run) == {}
    run.exited("w2")
    assert stops(run) == {"w0": 20, "w1": 20}


def test_the_step_to_stop_at_stays_when_the_one_that_was_furthest_dies() -> None:
    run = Run(3)
    run.coordinator.interrupt(1.0)
    for name, step in (("w0", 7), ("w1", 7), ("w2", 8)):
        run.says(name, Frozen(step))
    assert stops(run) == {"w0": 8, "w1": 8, "w2": 8}
    run.exited("w2")
    assert stops(run) == {}
    assert again(run, "w0", StopAt).step == 8


def test_a_second_interrupt_asks_nobody_again() -> None:
    run = Run(2)
    run.coordinator.interrupt(1.0)
    run.out = run.coordinator.interrupt(1.1)
    assert run.out.messages == []


def test_a_stopped_run_is_saved_and_not_evaluated() -> None:
    run = Run(2)
    run.coordinator.interrupt(1.0)
    run.says("w0", Frozen(5))
    run.says("w1", Frozen(5))
    run.done("w0", 5, complete=False)
    run.done("w1", 5, complete=False)
    assert run.told(Finish) == {"w0": Finish({"w0": 5, "w1": 5}, False)}
    assert run.coordinator.interrupted


def test_an_interrupt_that_came_too_late_was_none() -> None:
    run = Run(2)
    run.coordinator.interrupt(1.0)
    run.done("w0")
    run.done("w1")
    assert run.told(Finish)["w0"].evaluate
    assert not run.coordinator.interrupted


# --------------------------------------------------------------------------------------------------- finishing


def test_one_worker_saves_when_all_are_done() -> None:
    run = Run(3)
    run.done("w1", step=11)
    run.done("w0", step=10)
    assert run.told(Finish) == {}
    run.done("w2", step=12)
    assert run.coordinator.phase is Phase.FINISHING
    assert run.told(Finish) == {"w0": Finish({"w0": 10, "w1": 11, "w2": 12}, True)}


def finishing() -> Run:
    run = Run(3)
    for name in ("w0", "w1", "w2"):
        run.done(name)
    assert run.told(Finish)
    return run


def test_the_next_one_saves_when_the_first_dies_at_it() -> None:
    run = finishing()
    run.exited("w0")
    assert list(run.told(Finish)) == ["w1"]
    run.exited("w1")
    assert list(run.told(Finish)) == ["w2"]
    assert run.told(Finish)["w2"].steps == {"w2": 10}
    run.exited("w2")
    assert run.coordinator.phase is Phase.OVER
    assert run.coordinator.error is not None
    assert "all workers are lost" in run.coordinator.error.message


def test_the_death_of_another_does_not_make_the_saver_begin_again() -> None:
    run = finishing()
    run.exited("w2")
    assert run.told(Finish) == {}
    assert run.told(NewView)["w0"].view.members == (Member("w0", 1), Member("w1", 2))


def test_the_last_one_done_may_be_the_one_that_is_lost() -> None:
    run = Run(3)
    run.done("w0")
    run.done("w1")
    run.exited("w2")
    assert run.told(Finish) == {"w0": Finish({"w0": 10, "w1": 10}, True)}


def test_the_run_is_over_when_all_have_said_goodbye() -> None:
    run = finishing()
    run.says("w0", Result({"val_loss": 0.5}), now=1.0)
    assert run.coordinator.phase is Phase.CLOSING
    assert run.coordinator.result == {"val_loss": 0.5}
    assert set(run.told(Shutdown)) == {"w0", "w1", "w2"}
    for name in ("w0", "w1"):
        run.says(name, Goodbye({"steps": 10, "samples": 320}), now=1.1)
        assert run.coordinator.phase is Phase.CLOSING
    run.says("w2", Goodbye({"steps": 9}), now=1.2)
    assert run.coordinator.phase is Phase.OVER
    assert run.coordinator.error is None
    assert run.coordinator.stats() == {
        "w0": {"steps": 10, "samples": 320},
        "w1": {"steps": 10, "samples": 320},
        "w2": {"steps": 9},
    }


def test_who_does_not_say_goodbye_is_not_waited_for_long() -> None:
    run = finishing()
    run.says("w0", Result({}), now=10.0)
    run.tick(10.0 + CLOSING_S)
    assert run.coordinator.phase is Phase.CLOSING
    run.tick(10.0 + CLOSING_S + 0.1)
    assert run.coordinator.phase is Phase.OVER
    assert run.coordinator.error is None
    assert run.coordinator.stats()["w1"] == {"steps": 10}, "its last word was when it was done"


def test_who_ends_while_closing_is_not_lost() -> None:
    run = finishing()
    run.says("w0", Result({}), now=10.0)
    for name in ("w0", "w1", "w2"):
        run.exited(name, now=10.1)
        assert run.out.events == []
    run.tick(10.2)
    assert run.coordinator.phase is Phase.OVER
    assert run.coordinator.registry.lost == []


def test_a_fleet_of_one_runs_from_start_to_end() -> None:
    run = Run(1)
    assert list(run.told(NewView)) == ["w0"]
    run.beat("w0", 3, now=1.0)
    run.done("w0", step=3)
    assert run.told(Finish) == {"w0": Finish({"w0": 3}, True)}
    run.says("w0", Result({}), now=2.0)
    run.says("w0", Goodbye({}), now=2.0)
    assert run.coordinator.phase is Phase.OVER
    assert run.coordinator.error is None


# --------------------------------------------------------------------------------------------------- coming back


T = TypeVar("T", bound=ToWorker)


def all_again(run: Run, name: str) -> list[ToWorker]:
    """All that a worker is told when it is back, and this coordinator has no channel to it."""
    out = run.coordinator.again(run.workers[name], 0.0)
    assert {to for to, _ in out.messages} <= {name}
    return [message for _, message in out.messages]


def again(run: Run, name: str, kind: type[T]) -> T:
    """The message of this kind among them."""
    (found,) = [message for message in all_again(run, name) if isinstance(message, kind)]
    return found


def test_who_comes_back_is_told_what_it_must_know_now() -> None:
    run = Run(3)
    assert [type(message) for message in all_again(run, "w1")] == [Accepted, NewView]
    run.says("w0", Rendezvous(1, 0, "host:1"))
    assert again(run, "w1", Rendezvous) == Rendezvous(1, 0, "host:1")
    run.coordinator.interrupt(1.0)
    assert again(run, "w1", Freeze) == Freeze()
    for name in ("w0", "w1", "w2"):
        run.says(name, Frozen(5))
    assert again(run, "w1", StopAt).step == 5
    assert Freeze() not in all_again(run, "w1")
    for name in ("w0", "w1", "w2"):
        run.done(name, 5, complete=False)
    assert again(run, "w0", Finish) == run.told(Finish)["w0"]
    assert not [message for message in all_again(run, "w1") if isinstance(message, Finish)]
    run.says("w0", Result({}))
    assert again(run, "w1", Shutdown) == Shutdown()


def test_a_process_that_joins_again_is_the_worker_that_it_is() -> None:
    """The coordinator was started again, and has its memory but no channel."""
    run = Run(2)
    before = run.workers["w1"]
    run.coordinator.restarted(1.0)
    assert run.join(1, now=1.0) is before
    assert [type(message) for _, message in run.out.messages] == [Accepted, NewView]
    assert run.out.events == []


def test_what_the_lost_say_before_they_know_counts_for_nothing() -> None:
    run = Run(3)
    run.exited("w2")
    run.says("w2", Metrics(9, 0.1))
    run.done("w2", 9)
    run.beat("w2", 9, 1.0)
    assert (run.out.messages, run.out.metrics) == ([], [])
    run.done("w0")
    run.done("w1")
    assert run.told(Finish) == {"w0": Finish({"w0": 10, "w1": 10}, True)}


def test_a_coordinator_without_workers_yet_has_nothing_to_say() -> None:
    coordinator = Coordinator(Registry(2))
    assert coordinator.tick(1.0).messages == []
    assert coordinator.stats() == {}
    assert coordinator.registry.alive() == []


# ---------------------------------------------------------------------------------------------------------- scripts


def failed(run: Run, name: str, word: str) -> None:
    run.says(name, Failed(f"LookupError: {word}", trace=f"Traceback of {word}"))


def test_who_came_too_late_to_meet_the_others_in_a_collective_is_not_waited_for() -> None:
    run = Run(2, returns=True, joined=False)
    for slot in range(2):
        run.join(slot, sizes=())
    run.exited("w1", 1.0)
    run.join(1, now=2.0, process="another", sizes=())
    run.done("w0")
    assert run.told(Finish)["w0"].steps == {"w0": 10}
    assert run.coordinator.registry.lost == ["w1", "w1"]


def test_a_failure_of_a_script_ends_the_run_with_its_trace() -> None:
    run = Run(2, script=True)
    failed(run, "w1", "the cupboard is bare")
    assert run.coordinator.phase is Phase.OVER
    assert isinstance(run.coordinator.error, RunFailed)
    assert run.coordinator.error.line() == "w1: LookupError: the cupboard is bare"
    assert run.coordinator.trace == "Traceback of the cupboard is bare"
    assert set(run.told(Shutdown)) == {"w0", "w1"}


def test_the_first_failure_is_the_one_that_is_shown() -> None:
    run = Run(2, script=True)
    failed(run, "w1", "the cupboard is bare")
    failed(run, "w0", "the run has ended")
    assert run.coordinator.error is not None
    assert "bare" in run.coordinator.error.message
    assert "bare" in run.coordinator.trace


@pytest.mark.parametrize("usage", [False, True])
def test_a_script_that_fails_when_it_is_run_once_more_ends_no_run(usage: bool) -> None:
    run = Run(2, script=True, returns=True)
    run.exited("w1", 1.0)
    run.coordinator.restarts.wanted.clear()
    run.coordinator.stranger(Failed("FileExistsError: out", usage=usage, trace="Traceback", worker="w1"))
    assert run.coordinator.phase is Phase.TRAINING
    run.join(1, now=2.0, process="another")
    run.says("w1", Failed("no worker gave this one the state", usage=usage), 3.0)
    assert run.coordinator.phase is Phase.TRAINING
    assert run.coordinator.error is None
    run.exited("w1", 4.0)
    assert not run.coordinator.restarts.wanted, "it would fail again"


def test_a_script_that_fails_before_it_attaches_ends_a_run_that_has_not_begun() -> None:
    run = Run(2, script=True, joined=False)
    run.coordinator.stranger(Failed("SyntaxError: half", trace="Traceback", worker="w1"))
    assert run.coordinator.phase is Phase.OVER
    assert run.coordinator.trace == "Traceback"


def test_a_script_may_go_on_when_its_training_has_ended() -> None:
    """It is not waited for with impatience; but one that is silent is gone."""
    run = Run(2, script=True)
    for name in ("w0", "w1"):
        run.done(name)
    run.says("w0", Result({}), now=10.0)
    run.says("w0", Goodbye({}), now=10.0)
    for second in range(1, 10 + int(10 * CLOSING_S)):
        run.beats("1", now=float(second))
    run.tick(9.0 + 10 * CLOSING_S)
    assert run.coordinator.phase is Phase.CLOSING
    run.tick(10.0 + 10 * CLOSING_S + 2 * SILENT_MIN_S)
    assert run.coordinator.phase is Phase.OVER
    assert run.coordinator.error is None


def loses(run: Run, name: str, step: int, loss: float) -> None:
    run.says(name, Metrics(step, loss))


def test_a_loss_that_is_no_number_is_warned_of_once_and_fails_the_run_at_its_end() -> None:
    run = Run(2)
    for name, step in (("w0", 3), ("w1", 4), ("w0", 5)):
        loses(run, name, step, float("nan"))
    assert run.coordinator.warnings == ["the loss of w0 is no finite number at step 3"]
    for name in ("w0", "w1"):
        run.done(name)
    run.says("w0", Result({"tokens_per_sample": 0, "val_loss": 0.5}))
    assert isinstance(run.coordinator.error, RunFailed)
    assert run.coordinator.error.message == "the model diverged: its loss is not finite since step 3"


@pytest.mark.parametrize(("val_loss", "fails"), [(float("inf"), True), (0.5, False)])
def test_a_run_that_has_recovered_is_judged_by_its_result(val_loss: float, fails: bool) -> None:
    run = Run(2)
    for name in run.workers:
        loses(run, name, 1, float("nan"))
        loses(run, name, 2, 0.5)
        run.done(name)
    run.says("w0", Result({"tokens_per_sample": 0, "val_loss": val_loss}))
    assert (run.coordinator.error is not None) is fails


@pytest.mark.parametrize(("period", "last"), [(1, 10), (20, 41)])
def test_a_job_whose_losses_stay_no_numbers_ends_early_and_writes_its_model(period: int, last: int) -> None:
    """Over two periods at every worker: an agreement puts back what one bad batch has done."""
    run = Run(2, joined=False)
    for slot in (0, 1):
        run.join(slot, period=period)
    for step in range(1, last):
        for name in ("w0", "w1"):
            loses(run, name, step, float("nan"))
    assert run.coordinator.phase is Phase.TRAINING
    loses(run, "w0", last, float("nan"))
    assert run.coordinator.phase is Phase.TRAINING, "w1 may still recover"
    loses(run, "w1", last, float("nan"))
    assert run.told(Freeze) == {"w0": Freeze(), "w1": Freeze()}
    assert not run.coordinator.interrupted
    for name in ("w0", "w1"):
        run.says(name, Frozen(last))
    for name in ("w0", "w1"):
        run.says(name, Done(last, False, {}))
    assert run.told(Finish)["w0"].evaluate
    run.says("w0", Result({"val_loss": 0.5}))
    assert isinstance(run.coordinator.error, RunFailed)
    assert run.coordinator.error.message == "the model diverged: its loss is not finite since step 1"


def test_a_script_whose_losses_stay_no_numbers_is_ended() -> None:
    run = Run(2, script=True)
    for step in range(1, 11):
        loses(run, "w0", step, float("inf"))
    assert run.coordinator.phase is Phase.OVER
    assert run.coordinator.error is not None
    assert "since step 1" in run.coordinator.error.message


def test_one_finite_loss_is_a_new_beginning_and_coming_and_going_is_told_three_times() -> None:
    run = Run(1)
    for step in range(1, 100):
        loses(run, "w0", step, 0.5 if step % 10 == 0 else float("nan"))
    assert run.coordinator.phase is Phase.TRAINING
    assert len(run.coordinator.warnings) == 3


def test_who_logs_no_loss_does_not_hide_that_of_the_others() -> None:
    """Many loops log at the first worker alone."""
    run = Run(2, script=True)
    loses(run, "w0", 3, float("nan"))
    for name in ("w0", "w1"):
        run.done(name)
    run.says("w0", Result({"tokens_per_sample": 0}))
    assert isinstance(run.coordinator.error, RunFailed)


def test_a_script_that_logs_no_loss_has_not_diverged() -> None:
    run = Run(1, script=True)
    run.says("w0", Metrics(1, None, {"accuracy": 0.5}))
    run.done("w0")
    run.says("w0", Result({"tokens_per_sample": 0}))
    assert run.coordinator.error is None
    assert not run.coordinator.warnings


# --------------------------------------------------------------------------------- scripts that were not written for this


def test_a_script_for_torchrun_takes_its_time_and_ends_when_all_have() -> None:
    run = Run(2, joined=False)
    run.coordinator.stranger(Unmodified())
    run.coordinator.tick(GATHER_S + 100.0)
    assert run.coordinator.phase is Phase.GATHERING
    assert run.coordinator.stranger(Untrained("w1")).everyone == []
    run.coordinator.exited("w1", GATHER_S + 101.0)
    assert run.coordinator.stranger(Untrained("w0")).everyone == [Shutdown()]
    assert run.coordinator.phase is Phase.OVER
    assert run.coordinator.error is None
    assert run.coordinator.warnings == []


def test_a_script_for_torchrun_does_not_go_on_without_a_worker() -> None:
    run = Run(2)
    run.coordinator.stranger(Unmodified())
    run.coordinator.exited("w1", 5.0)
    assert run.coordinator.phase is Phase.OVER
    assert "w1 ended" in str(run.coordinator.error)


def test_nor_without_one_that_is_silent() -> None:
    run = Run(3)
    run.coordinator.stranger(Unmodified())
    for second in range(1, 60):
        for name in ("w0", "w2"):
            run.beat(name, 0, float(second))
        run.tick(float(second))
    assert run.coordinator.phase is Phase.OVER
    assert "w1 is lost" in str(run.coordinator.error)
    assert not run.coordinator.restarts.wanted


def test_what_all_say_is_said_once() -> None:
    run = Run(2)
    run.coordinator.stranger(Warned("there is no CUDA here"))
    run.says("w1", Warned("there is no CUDA here"))
    assert run.coordinator.warnings == ["there is no CUDA here"]


def test_all_hear_where_process_groups_meet() -> None:
    run = Run(2, joined=False)
    assert run.coordinator.stranger(TorchStore("127.0.0.1:29500")).everyone == [TorchStore("127.0.0.1:29500")]
    assert run.coordinator.store == TorchStore("127.0.0.1:29500")
    with pytest.raises(PeerError):
        run.coordinator.stranger(Metrics(1, 0.5))


def test_in_such_a_script_all_may_wait_long_for_one() -> None:
    run = Run(2)
    run.coordinator.stranger(Unmodified())
    for step in range(1, 5):
        run.beats("01", float(step))
    for second in range(5, 1500):
        run.beat("w0", 4, float(second))
        run.beat("w1", 4, float(second), waits=True)
        run.tick(float(second))
    assert run.coordinator.phase is Phase.TRAINING
    assert run.coordinator.warnings
