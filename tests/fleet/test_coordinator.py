"""The coordinator's decisions, input by input; time is handed in."""

from __future__ import annotations

from typing import Any

import pytest
from people import Run

from roadtrain.errors import RunFailed, UsageError
from roadtrain.fleet.coordinator import CLOSING_S, Coordinator
from roadtrain.fleet.phase import Phase
from roadtrain.fleet.registry import GONE_S, SILENT_S

# ---------------------------------------------------------------------------------------------------- gathering


def test_the_run_begins_when_all_have_joined() -> None:
    run = Run(3, joined=False)
    for slot in (1, 0):
        run.join(slot)
        assert run.out.messages == []
        assert run.coordinator.phase is Phase.GATHERING
        assert run.events("joined") == [
            {"event": "joined", "worker": f"w{slot}", "pid": 4000 + slot, "host": f"host{slot}"}
        ]
    assert run.coordinator.started_s is None
    run.join(2, now=5.0)
    assert run.coordinator.phase is Phase.TRAINING
    assert run.coordinator.started_s == 5.0
    views = run.told("view")
    assert list(views) == ["w0", "w1", "w2"]
    assert views["w0"]["number"] == 1
    assert views["w0"]["members"] == [["w0", 2], ["w1", 1], ["w2", 3]]
    assert set(views["w0"]["owners"]) == {"w0", "w1", "w2"}
    addresses = run.told("addresses")
    assert addresses["w2"] == {"w0": "127.0.0.1:5000", "w1": "127.0.0.1:5001", "w2": "127.0.0.1:5002"}


def test_nobody_is_overdue_for_the_time_before_the_run() -> None:
    run = Run(2, joined=False)
    run.join(0, now=0.0)
    run.join(1, now=100.0)
    run.tick(100.0 + GONE_S)
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
    assert run.told("first") == {"w0": digests, "w1": digests}
    assert again(run, "w1")["first"] == digests, "it may not have heard"


def test_who_is_out_is_told_no_weights() -> None:
    run = Run(3)
    run.exited("w2")
    assert run.told("first")["w2"] == {}
    assert set(run.told("first")["w0"]) == {"w0", "w1"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"structure": "another"}, "w1 has another model"),
        ({"sizes": [100, 100]}, "w1 has another model"),
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
    assert set(run.told("bye")) == {"w0"}


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


def test_an_interrupt_before_the_run_has_begun_ends_it() -> None:
    run = Run(2, joined=False)
    run.join(0)
    run.coordinator.interrupt(1.0)
    assert run.coordinator.phase is Phase.OVER
    assert run.coordinator.interrupted
    assert run.coordinator.error is None


@pytest.mark.parametrize(
    ("body", "kind"),
    [({"message": "no such file", "usage": True}, UsageError), ({"message": "no memory"}, RunFailed)],
)
def test_a_worker_that_cannot_begin_says_why(body: dict[str, object], kind: type[Exception]) -> None:
    run = Run(2, joined=False)
    run.join(0)
    run.says("w0", {"failed": body})
    assert run.coordinator.phase is Phase.OVER
    assert isinstance(run.coordinator.error, kind)
    assert str(body["message"]) in run.coordinator.error.message


# --------------------------------------------------------------------------------------------------- training


def test_metrics_and_events_carry_the_name_of_their_worker() -> None:
    run = Run(2)
    assert run.says("w1", {"metrics": {"step": 3, "loss": 0.5}}).metrics == [{"worker": "w1", "step": 3, "loss": 0.5}]
    assert run.says("w1", {"event": {"event": "checkpoint", "step": 3, "worker": "w0"}}).events == [
        {"event": "checkpoint", "step": 3, "worker": "w1"}
    ]


def test_the_first_step_is_noted() -> None:
    run = Run(2)
    run.says("w0", {"heartbeat": 0}, now=1.0)
    assert run.coordinator.first_step_s is None
    run.says("w1", {"heartbeat": 1}, now=2.5)
    run.says("w0", {"heartbeat": 4}, now=3.0)
    assert run.coordinator.first_step_s == 2.5
    assert run.workers["w0"].step == 4


def test_a_run_without_a_heartbeat_has_a_first_step_too() -> None:
    run = Run(2)
    run.says("w0", {"metrics": {"step": 1, "loss": 0.5}}, now=0.3)
    run.says("w1", {"heartbeat": 2}, now=0.5)
    assert run.coordinator.first_step_s == 0.3
    run = Run(1)
    run.done("w0", step=0, now=0.1)
    assert run.coordinator.first_step_s is None
    run = Run(1)
    run.done("w0", step=2, now=0.4)
    assert run.coordinator.first_step_s == 0.4


def test_a_meeting_point_is_passed_on_to_all() -> None:
    run = Run(3)
    run.says("w0", {"store": {"view": 1, "address": "host:1"}})
    assert run.told("store") == {f"w{slot}": {"view": 1, "address": "host:1"} for slot in range(3)}


def test_a_silent_worker_is_lost() -> None:
    run = Run(3)
    run.beats("02", now=SILENT_S)
    run.tick(SILENT_S)
    assert run.out.events == []
    run.tick(SILENT_S + 0.1)
    assert run.events("lost") == [{"event": "lost", "worker": "w1"}]
    (handoff,) = run.events("handoff")
    assert run.coordinator.handoffs == len(handoff["fragments"]) > 0
    views = run.told("view")
    assert set(views) == {"w0", "w1", "w2"}, "one that only slept learns that it is out"
    assert run.told("addresses")["w1"] == {}
    assert set(run.told("addresses")["w0"]) == {"w0", "w2"}
    assert views["w0"] == views["w1"] == views["w2"]
    assert views["w0"]["number"] == 2
    assert [name for name, _ in views["w0"]["members"]] == ["w0", "w2"]
    assert set(handoff["to"]) <= {"w0", "w2"}
    for fragment in handoff["fragments"]:
        assert views["w0"]["owners"][fragment] in handoff["to"]
    run.tick(SILENT_S + 0.2)
    assert run.out.events == []


def test_a_broken_connection_is_lost_sooner_unless_it_comes_back() -> None:
    run = Run(3)
    run.beats("012", now=10.0)
    for name in ("w1", "w2"):
        run.workers[name].connected = False
    run.says("w2", {"heartbeat": 1}, now=10.5)
    run.tick(10.0 + GONE_S + 0.1)
    assert [event["worker"] for event in run.events("lost")] == ["w1"]


def test_a_process_that_ended_is_lost_at_once_and_once() -> None:
    run = Run(3)
    run.exited("w2", now=1.0)
    assert [event["worker"] for event in run.events("lost")] == ["w2"]
    assert run.told("view")["w0"]["members"] == [["w0", 1], ["w1", 2]]
    run.exited("w2", now=1.1)
    run.tick(1.2)
    assert run.out.events == []


def test_a_worker_that_fails_in_training_is_noted_and_not_the_end() -> None:
    run = Run(3)
    run.says("w1", {"failed": {"message": "out of memory"}})
    assert run.events("failed") == [{"event": "failed", "worker": "w1", "message": "out of memory"}]
    assert run.coordinator.phase is Phase.TRAINING
    run.says("w1", {"failed": {"message": "no such file", "usage": True}})
    assert run.coordinator.phase is Phase.OVER
    assert isinstance(run.coordinator.error, UsageError)
    assert set(run.told("bye")) == {"w0", "w1", "w2"}


def test_the_loss_of_all_is_the_end() -> None:
    run = Run(2)
    run.tick(1000.0)
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
    run.beats(left[1:], now=100.0)
    run.tick(100.0)
    assert run.coordinator.phase is Phase.OVER
    assert run.coordinator.error is not None
    assert "at once" in run.coordinator.error.message
    assert set(run.told("bye")) >= {left}


def test_losses_one_after_the_other_leave_the_last_one_training() -> None:
    run = Run(4)
    for now, name in ((1.0, "w2"), (2.0, "w0"), (3.0, "w3")):
        run.exited(name, now)
        assert run.coordinator.phase is Phase.TRAINING
    assert [worker.name for worker in run.coordinator.registry.alive()] == ["w1"]
    assert run.told("view")["w1"]["standbys"] == [None] * 4


# --------------------------------------------------------------------------------------------------- stopping


def test_synchronous_workers_stop_at_a_step_that_nobody_has_passed() -> None:
    run = Run(3)
    run.out = run.coordinator.interrupt(1.0)
    assert run.told("freeze") == dict.fromkeys(("w0", "w1", "w2"), True)
    assert run.coordinator.phase is Phase.STOPPING
    run.says("w0", {"frozen": 7})
    run.says("w1", {"frozen": 8})
    assert run.told("stop") == {}
    run.says("w2", {"frozen": 7})
    assert run.told("stop") == {"w0": 8, "w1": 8, "w2": 8}


def test_asynchronous_workers_stop_where_they_are() -> None:
    run = Run(3, rounds=False)
    run.coordinator.interrupt(1.0)
    for name, step in (("w0", 7), ("w1", 12), ("w2", 3)):
        run.says(name, {"frozen": step})
    assert run.told("stop") == {"w0": 7, "w1": 12, "w2": 3}


def test_a_stop_does_not_wait_for_the_lost_nor_for_who_is_done() -> None:
    run = Run(3)
    run.done("w0", step=20)
    run.coordinator.interrupt(1.0)
    run.says("w1", {"frozen": 20})
    assert run.told("stop") == {}
    run.exited("w2")
    assert run.told("stop") == {"w0": 20, "w1": 20}


def test_the_step_to_stop_at_stays_when_the_one_that_was_furthest_dies() -> None:
    run = Run(3)
    run.coordinator.interrupt(1.0)
    for name, step in (("w0", 7), ("w1", 7), ("w2", 8)):
        run.says(name, {"frozen": step})
    assert run.told("stop") == {"w0": 8, "w1": 8, "w2": 8}
    run.exited("w2")
    assert run.told("stop") == {}
    assert again(run, "w0")["stop"] == 8


def test_a_second_interrupt_asks_nobody_again() -> None:
    run = Run(2)
    run.coordinator.interrupt(1.0)
    run.out = run.coordinator.interrupt(1.1)
    assert run.out.messages == []


def test_a_stopped_run_is_saved_and_not_evaluated() -> None:
    run = Run(2)
    run.coordinator.interrupt(1.0)
    run.says("w0", {"frozen": 5})
    run.says("w1", {"frozen": 5})
    run.done("w0", 5, complete=False)
    run.done("w1", 5, complete=False)
    assert run.told("finish") == {"w0": {"steps": {"0": 5, "1": 5}, "evaluate": False}}
    assert run.coordinator.interrupted


def test_an_interrupt_that_came_too_late_was_none() -> None:
    run = Run(2)
    run.coordinator.interrupt(1.0)
    run.done("w0")
    run.done("w1")
    assert run.told("finish")["w0"]["evaluate"] is True
    assert not run.coordinator.interrupted


# --------------------------------------------------------------------------------------------------- finishing


def test_one_worker_saves_when_all_are_done() -> None:
    run = Run(3)
    run.done("w1", step=11)
    run.done("w0", step=10)
    assert run.told("finish") == {}
    run.done("w2", step=12)
    assert run.coordinator.phase is Phase.FINISHING
    assert run.told("finish") == {"w0": {"steps": {"0": 10, "1": 11, "2": 12}, "evaluate": True}}


def finishing() -> Run:
    run = Run(3)
    for name in ("w0", "w1", "w2"):
        run.done(name)
    assert run.told("finish")
    return run


def test_the_next_one_saves_when_the_first_dies_at_it() -> None:
    run = finishing()
    run.exited("w0")
    assert list(run.told("finish")) == ["w1"]
    run.exited("w1")
    assert list(run.told("finish")) == ["w2"]
    assert run.told("finish")["w2"]["steps"] == {"2": 10}
    run.exited("w2")
    assert run.coordinator.phase is Phase.OVER
    assert run.coordinator.error is not None
    assert "all workers are lost" in run.coordinator.error.message


def test_the_death_of_another_does_not_make_the_saver_begin_again() -> None:
    run = finishing()
    run.exited("w2")
    assert run.told("finish") == {}
    assert run.told("view")["w0"]["members"] == [["w0", 1], ["w1", 2]]


def test_the_last_one_done_may_be_the_one_that_is_lost() -> None:
    run = Run(3)
    run.done("w0")
    run.done("w1")
    run.exited("w2")
    assert run.told("finish") == {"w0": {"steps": {"0": 10, "1": 10}, "evaluate": True}}


def test_the_run_is_over_when_all_have_said_goodbye() -> None:
    run = finishing()
    run.says("w0", {"result": {"val_loss": 0.5}}, now=1.0)
    assert run.coordinator.phase is Phase.CLOSING
    assert run.coordinator.result == {"val_loss": 0.5}
    assert set(run.told("bye")) == {"w0", "w1", "w2"}
    for name in ("w0", "w1"):
        run.says(name, {"farewell": {"steps": 10, "samples": 320}}, now=1.1)
        assert run.coordinator.phase is Phase.CLOSING
    run.says("w2", {"farewell": {"steps": 9}}, now=1.2)
    assert run.coordinator.phase is Phase.OVER
    assert run.coordinator.error is None
    assert run.coordinator.stats() == {
        "w0": {"steps": 10, "samples": 320},
        "w1": {"steps": 10, "samples": 320},
        "w2": {"steps": 9},
    }


def test_who_does_not_say_goodbye_is_not_waited_for_long() -> None:
    run = finishing()
    run.says("w0", {"result": {}}, now=10.0)
    run.tick(10.0 + CLOSING_S)
    assert run.coordinator.phase is Phase.CLOSING
    run.tick(10.0 + CLOSING_S + 0.1)
    assert run.coordinator.phase is Phase.OVER
    assert run.coordinator.error is None
    assert run.coordinator.stats()["w1"] == {"steps": 10}, "its last word was when it was done"


def test_who_ends_while_closing_is_not_lost() -> None:
    run = finishing()
    run.says("w0", {"result": {}}, now=10.0)
    for name in ("w0", "w1", "w2"):
        run.exited(name, now=10.1)
        assert run.out.events == []
    run.tick(10.2)
    assert run.coordinator.phase is Phase.OVER
    assert run.coordinator.registry.lost == []


def test_a_fleet_of_one_runs_from_start_to_end() -> None:
    run = Run(1)
    assert list(run.told("view")) == ["w0"]
    run.says("w0", {"heartbeat": 3}, now=1.0)
    run.done("w0", step=3)
    assert run.told("finish") == {"w0": {"steps": {"0": 3}, "evaluate": True}}
    run.says("w0", {"result": {}}, now=2.0)
    run.says("w0", {"farewell": {}}, now=2.0)
    assert run.coordinator.phase is Phase.OVER
    assert run.coordinator.error is None


# --------------------------------------------------------------------------------------------------- coming back


def again(run: Run, name: str) -> dict[str, Any]:
    """All that a worker is told when it is back."""
    out = run.coordinator.again(run.workers[name], 0.0)
    assert {to for to, _ in out.messages} <= {name}
    return {kind: body for _, message in out.messages for kind, body in message.items()}


def test_who_comes_back_is_told_what_it_must_know_now() -> None:
    run = Run(3)
    assert set(again(run, "w1")) == {"view", "addresses", "first"}
    run.says("w0", {"store": {"view": 1, "address": "host:1"}})
    assert again(run, "w1")["store"] == {"view": 1, "address": "host:1"}
    run.coordinator.interrupt(1.0)
    assert again(run, "w1")["freeze"] is True
    for name in ("w0", "w1", "w2"):
        run.says(name, {"frozen": 5})
    assert again(run, "w1")["stop"] == 5
    assert "freeze" not in again(run, "w1")
    for name in ("w0", "w1", "w2"):
        run.done(name, 5, complete=False)
    assert again(run, "w0")["finish"] == run.told("finish")["w0"]
    assert "finish" not in again(run, "w1")
    run.says("w0", {"result": {}})
    assert again(run, "w1")["bye"] is True


def test_the_lost_that_come_back_learn_that_they_are_out() -> None:
    run = Run(3)
    run.exited("w2")
    told = again(run, "w2")
    assert [name for name, _ in told["view"]["members"]] == ["w0", "w1"]
    assert told["addresses"] == {}


def test_a_message_of_no_kind_is_refused() -> None:
    run = Run(1)
    with pytest.raises(ValueError, match="unknown message 'dance'"):
        run.says("w0", {"dance": 1})


def test_a_coordinator_without_workers_yet_has_nothing_to_say() -> None:
    coordinator = Coordinator(2)
    assert coordinator.tick(1.0).messages == []
    assert coordinator.stats() == {}
    assert coordinator.registry.alive() == []


# ---------------------------------------------------------------------------------------------------------- scripts


def failed(run: Run, name: str, word: str) -> None:
    run.says(name, {"failed": {"message": f"LookupError: {word}", "trace": f"Traceback of {word}"}})


def test_a_failure_of_a_script_ends_the_run_with_its_trace() -> None:
    run = Run(2, script=True)
    failed(run, "w1", "the cupboard is bare")
    assert run.coordinator.phase is Phase.OVER
    assert isinstance(run.coordinator.error, RunFailed)
    assert run.coordinator.error.line() == "w1: LookupError: the cupboard is bare"
    assert run.coordinator.trace == "Traceback of the cupboard is bare"
    assert set(run.told("bye")) == {"w0", "w1"}


def test_the_first_failure_is_the_one_that_is_shown() -> None:
    run = Run(2, script=True)
    failed(run, "w1", "the cupboard is bare")
    failed(run, "w0", "the run has ended")
    assert run.coordinator.error is not None
    assert "bare" in run.coordinator.error.message
    assert "bare" in run.coordinator.trace


def test_a_script_that_fails_before_it_attaches_ends_a_run_that_has_begun() -> None:
    run = Run(2, script=True)
    run.coordinator.cannot_begin("w1", {"message": "SyntaxError: half", "trace": "Traceback"})
    assert run.coordinator.phase is Phase.OVER
    assert run.coordinator.trace == "Traceback"


def test_a_script_may_go_on_when_its_training_has_ended() -> None:
    """It is not waited for with impatience; but one that is silent is gone."""
    run = Run(2, script=True)
    for name in ("w0", "w1"):
        run.done(name)
    run.says("w0", {"result": {}}, now=10.0)
    run.says("w0", {"farewell": {}}, now=10.0)
    run.beats("1", now=10.0 + 10 * CLOSING_S)
    run.tick(10.0 + 10 * CLOSING_S)
    assert run.coordinator.phase is Phase.CLOSING
    run.tick(10.0 + 10 * CLOSING_S + SILENT_S + 0.1)
    assert run.coordinator.phase is Phase.OVER
    assert run.coordinator.error is None


def loses(run: Run, name: str, step: int, loss: float) -> None:
    run.says(name, {"metrics": {"step": step, "loss": loss}})


def test_a_loss_that_is_no_number_is_warned_of_once_and_fails_the_run_at_its_end() -> None:
    run = Run(2)
    for name, step in (("w0", 3), ("w1", 4), ("w0", 5)):
        loses(run, name, step, float("nan"))
    assert run.coordinator.warnings == ["the loss of w0 is no finite number at step 3"]
    for name in ("w0", "w1"):
        run.done(name)
    run.says("w0", {"result": {"tokens_per_sample": 0, "val_loss": 0.5}})
    assert isinstance(run.coordinator.error, RunFailed)
    assert run.coordinator.error.message == "the model diverged: its loss is not finite since step 3"


@pytest.mark.parametrize(("val_loss", "fails"), [(float("inf"), True), (0.5, False)])
def test_a_run_that_has_recovered_is_judged_by_its_result(val_loss: float, fails: bool) -> None:
    run = Run(2)
    for name in run.workers:
        loses(run, name, 1, float("nan"))
        loses(run, name, 2, 0.5)
        run.done(name)
    run.says("w0", {"result": {"tokens_per_sample": 0, "val_loss": val_loss}})
    assert (run.coordinator.error is not None) is fails


def test_who_logs_no_loss_does_not_hide_that_of_the_others() -> None:
    """Many loops log at the first worker alone."""
    run = Run(2, script=True)
    loses(run, "w0", 3, float("nan"))
    for name in ("w0", "w1"):
        run.done(name)
    run.says("w0", {"result": {"tokens_per_sample": 0}})
    assert isinstance(run.coordinator.error, RunFailed)


def test_a_script_that_logs_no_loss_has_not_diverged() -> None:
    run = Run(1, script=True)
    run.says("w0", {"metrics": {"step": 1, "loss": None, "accuracy": 0.5}})
    run.done("w0")
    run.says("w0", {"result": {"tokens_per_sample": 0}})
    assert run.coordinator.error is None
    assert not run.coordinator.warnings
