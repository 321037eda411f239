"""Members that do not reach each other: which of them is lost, and when."""

from __future__ import annotations

from people import Run

from roadtrain.membership.messages import Unreached
from roadtrain.membership.unreached import GATHER_S
from roadtrain.membership.unreached import Unreached as Complaints


def test_the_later_of_two_goes() -> None:
    complaints = Complaints()
    complaints.note("w2", "w1", 10.0)
    complaints.note("w1", "w2", 11.0)
    assert complaints.decide(["w0", "w1", "w2"], 10.0 + GATHER_S / 2) is None
    assert complaints.decide(["w0", "w1", "w2"], 10.0 + GATHER_S) == "w2"
    assert complaints.decide(["w0", "w1"], 60.0) is None, "it is said again where it still holds"


def test_who_reaches_nobody_goes_before_those_that_it_complains_of() -> None:
    complaints = Complaints()
    for other in ("w0", "w2", "w3"):
        complaints.note("w1", other, 0.0)
    assert complaints.decide(["w0", "w1", "w2", "w3"], GATHER_S) == "w1"


def test_what_was_said_of_one_that_is_gone_does_not_count() -> None:
    complaints = Complaints()
    complaints.note("w1", "w2", 0.0)
    assert complaints.decide(["w0", "w1"], GATHER_S) is None


def test_the_coordinator_loses_one_of_two_that_it_hears_both() -> None:
    run = Run(3, returns=True)
    run.says("w1", Unreached("w2", 3), 5.0)
    for time in (5.0, 6.0, 7.0, 8.5):
        run.beats("012", time)
        run.tick(time)
    assert run.coordinator.registry.lost == ["w2"]


def test_a_process_that_has_been_replaced_since_is_not_lost_for_it() -> None:
    run = Run(3, returns=True)
    run.says("w1", Unreached("w2", 2), 5.0)
    for time in (5.0, 6.0, 7.0, 8.5):
        run.beats("012", time)
        run.tick(time)
    assert run.coordinator.registry.lost == []
