"""What is to run where, as machines come, die, leave and come back: no process, no socket, time handed in."""

from __future__ import annotations

import pytest
from told_fleet import Fleet, Story, places

from roadtrain.errors import UsageError
from roadtrain.membership.phase import Phase
from roadtrain.orchestrate.hub import AWAY_S, Hub
from roadtrain.orchestrate.register import Register
from roadtrain.orchestrate.submission import Submission


def test_a_run_waits_for_machines_and_takes_all(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        run = fleet.run_of()
        assert fleet.runs[run].status == "queued"
        fleet.machine("a", 2)
        fleet.tick()
        assert places(fleet, run) == [(0, "a", 1), (1, "a", 1)]
        assert {(order.slot, order.device) for order in fleet.orders("a")} == {(0, 0), (1, 1)}

    story(told)


def test_who_comes_later_joins_a_run_that_trains_and_the_next_waits(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        fleet.machine("a")
        first, second = fleet.run_of(), fleet.run_of()
        fleet.machine("b")
        fleet.tick()
        assert places(fleet, first) == [(0, "a", 1)], "it has not begun yet"
        assert places(fleet, second) == [(0, "b", 1)]
        fleet.train(first)
        fleet.machine("c")
        fleet.tick()
        assert places(fleet, first) == [(0, "a", 1), (1, "c", 1)]

    story(told)


def test_a_run_of_a_number_waits_for_it_and_takes_no_more(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        fleet.machine("a")
        run, behind = fleet.run_of(workers=2), fleet.run_of()
        assert [fleet.runs[each].status for each in (run, behind)] == ["queued", "queued"]
        fleet.machine("b")
        fleet.tick()
        fleet.train(run)
        fleet.machine("c")
        fleet.tick()
        assert len(places(fleet, run)) == 2
        assert places(fleet, behind) == [(0, "c", 1)]

    story(told)


def test_code_goes_where_it_may(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        fleet.machine("a", takes_code=False)
        asked = Submission(version="", target="x.py", plan="", workers=None, archive="", wants_code=True)
        with pytest.raises(UsageError, match="x"):
            fleet.refuse_if_hopeless(asked)
        fleet.machine("b")
        fleet.refuse_if_hopeless(asked)
        run = fleet.run_of(code=True)
        assert places(fleet, run) == [(0, "b", 1)]

    story(told)


def test_a_killed_worker_is_started_again_and_sooner_the_first_time(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        fleet.machine("a")
        fleet.machine("b")
        run = fleet.run_of()
        fleet.train(run)
        fleet.end("b", -9)
        fleet.beat()
        assert places(fleet, run)[1] == (1, "b", 1), "not within the same moment"
        fleet.pass_time(1)
        assert places(fleet, run) == [(0, "a", 1), (1, "b", 2)]
        for _ in range(8):
            fleet.end("b", -9)
            fleet.pass_time(1)
        assert places(fleet, run)[1][2] < 8, "one that dies again and again is given time"

    story(told)


@pytest.mark.parametrize("code", [1, 2])
def test_one_that_has_said_what_is_wrong_is_not_started_again(story: Story, code: int) -> None:
    async def told(fleet: Fleet) -> None:
        fleet.machine("a")
        fleet.machine("b")
        run = fleet.run_of()
        fleet.train(run)
        fleet.end("b", code)
        fleet.pass_time(3)
        assert places(fleet, run) == [(0, "a", 1)]

    story(told)


def test_before_it_has_begun_it_is_placed_anew(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        fleet.machine("a")
        fleet.machine("b")
        run = fleet.run_of()
        first = fleet.runs[run].token
        fleet.beat("b", leaving=True)
        assert places(fleet, run) == [(0, "a", 1)]
        assert fleet.runs[run].attempt == 2
        assert fleet.runs[run].token != first

    story(told)


def test_a_machine_that_is_away_for_long_loses_its_place(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        fleet.machine("a")
        fleet.machine("b")
        run = fleet.run_of()
        fleet.train(run)
        fleet.pass_time(AWAY_S - 2, "a")
        assert len(places(fleet, run)) == 2
        fleet.pass_time(4, "a")
        assert places(fleet, run) == [(0, "a", 1)]
        fleet.clock += 3600
        fleet.beat("a", "b")
        fleet.tick()
        assert places(fleet, run) == [(0, "a", 1), (2, "b", 1)], "after an hour it comes as a newcomer"

    story(told)


def test_a_coordinator_that_was_killed_goes_on_with_all(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        fleet.machine("a")
        fleet.machine("b")
        run, waiting = fleet.run_of(), fleet.run_of()
        fleet.train(run)
        before = fleet.orders("a")
        again = Fleet.__new__(Fleet)
        Hub.__init__(again, Register(fleet.folder), fleet.folder, b"secret")
        again.begin()
        assert again.orders_for(again.presences["a"]).workers == tuple(before), "the same process goes on"
        control = again.runs[run].control
        assert control is not None
        assert control.coordinator.phase is Phase.RECALLING
        assert again.runs[waiting].status == "queued"

    story(told)


def test_who_was_put_out_stays_out_when_the_coordinator_is_started_again(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        fleet.machine("a")
        fleet.machine("b")
        run = fleet.run_of()
        fleet.train(run)
        control = fleet.runs[run].control
        assert control is not None
        control.coordinator.registry.quarantined["w1"] = "not finite"
        control.sessions.event({"event": "joined", "worker": "w1", "time_s": 0.5})
        control.sessions.event({"event": "quarantined", "worker": "w1", "reason": "not finite", "time_s": 1.0})
        fleet.tick()
        again = Fleet.__new__(Fleet)
        Hub.__init__(again, Register(fleet.folder), fleet.folder, b"secret")
        again.begin()
        control = again.runs[run].control
        assert control is not None
        assert control.coordinator.registry.quarantined == {"w1": "not finite"}
        assert again.runs[run].banned == ("b",), "no other worker of the run is started there"

    story(told)


def test_a_run_is_final_when_all_it_leaves_has_come(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        fleet.machine("a")
        run, behind = fleet.run_of(), fleet.run_of()
        fleet.train(run)
        control = fleet.runs[run].control
        assert control is not None
        control.coordinator.phase = Phase.OVER
        fleet.beat()
        assert fleet.runs[run].status == "running"
        fleet.end("a", 0)
        fleet.beat()
        assert fleet.runs[run].status == "running", "its files are on their way"
        fleet.end("a", 0, "settled")
        fleet.beat()
        assert fleet.runs[run].status == "finished"
        assert fleet.runs[behind].status == "running"

    story(told)


def test_names_of_machines_are_their_own(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        for _ in range(3):
            fleet.machine("lab")
        assert list(fleet.presences) == ["lab", "lab-2", "lab-3"]

    story(told)
