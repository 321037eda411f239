"""A lost group that is started again: who is wanted, and when it is in the view."""

from __future__ import annotations

import pytest
from people import details

from roadtrain.errors import RunFailed
from roadtrain.membership.coordinator import Coordinator
from roadtrain.membership.effects import Effects
from roadtrain.membership.messages import Done, Failed, NewView, Result, Shutdown
from roadtrain.membership.phase import Phase
from roadtrain.membership.registry import NoPlace, Registry
from roadtrain.membership.restart_policy import RESTARTS, RestartPolicy


class TwoRegions:
    """A coordinator of two groups of two workers each, which train."""

    def __init__(self) -> None:
        self.coordinator = Coordinator(Registry(4, (2, 2), returns=True))
        self.registry = self.coordinator.registry
        for slot in range(4):
            self.join(slot)

    def join(self, slot: int, pid: int = 0) -> Effects:
        digests = {"trained": "same" if not pid else "whatever"}
        return self.coordinator.join(details(slot, f"process {slot} {pid}", digests=digests), 1.0)[1]

    def alive(self) -> list[str]:
        return [worker.name for worker in self.registry.alive()]

    def wanted(self) -> list[tuple[str, ...]]:
        found = list(self.coordinator.restarts.wanted)
        self.coordinator.restarts.wanted.clear()
        return found


def test_a_group_that_lost_a_worker_is_wanted_whole_and_is_back_when_it_is_whole() -> None:
    run = TwoRegions()
    run.coordinator.exited("w3", 2.0)
    assert run.alive() == ["w0", "w1"]
    assert run.wanted() == [("w2", "w3")]
    run.coordinator.exited("w2", 2.0)  # which is killed, as it can do nothing by itself
    assert run.wanted() == []
    out = run.join(3, pid=1)
    assert run.alive() == ["w0", "w1"]
    assert {name for name, _ in out.messages} == {"w3"}, "one of two is told no more than its name"
    assert run.registry.view is not None
    assert run.registry.view.number == 2
    out = run.join(2, pid=1)
    assert run.alive() == ["w0", "w1", "w2", "w3"]
    view = run.registry.view
    assert view is not None
    assert (view.number, view.peers) == (3, ("w0", "w2"))
    assert set(view.owners) == {"w0"}, "it has no state to own yet"
    assert set(view.standbys) == {"w2"}
    assert {name for name, message in out.messages if isinstance(message, NewView)} == {"w0", "w1", "w2", "w3"}
    assert [e["worker"] for e in out.events if e["event"] == "returned"] == ["w2", "w3"]
    assert run.registry.joins == 6


def test_a_group_that_dies_again_is_wanted_again_and_not_for_ever() -> None:
    run = TwoRegions()
    for time in range(RESTARTS):
        run.coordinator.exited("w2", 2.0)
        assert run.wanted() == [("w2", "w3")]
        for slot in (2, 3):
            run.join(slot, pid=1 + time)
    run.coordinator.exited("w2", 2.0)
    assert run.wanted() == []
    assert run.alive() == ["w0", "w1"]


def test_one_that_dies_while_it_waits_for_its_group() -> None:
    run = TwoRegions()
    run.coordinator.exited("w2", 2.0)
    run.wanted()
    run.join(2, pid=1)
    run.coordinator.exited("w2", 3.0)
    assert run.wanted() == [("w2", "w3")]
    run.join(3, pid=2)
    assert run.alive() == ["w0", "w1"]


def test_what_has_a_fault_of_its_own_is_not_started_again() -> None:
    run = TwoRegions()
    run.coordinator.receive(run.registry.workers["w3"], Failed("shapes do not fit"), 2.0)
    run.coordinator.exited("w3", 2.0)
    assert run.wanted() == []


def test_what_the_lost_complain_of_is_no_fault() -> None:
    """The rest of a lost group fails too; when all are lost later, the run may go on from its checkpoint."""
    run = TwoRegions()
    run.coordinator.exited("w3", 2.0)
    run.coordinator.receive(run.registry.workers["w2"], Failed("taken for lost"), 2.0)
    run.coordinator.exited("w0", 3.0)
    assert run.coordinator.killed
    assert isinstance(run.coordinator.error, RunFailed)


def test_nobody_comes_back_to_a_run_that_ends() -> None:
    run = TwoRegions()
    run.coordinator.exited("w2", 2.0)
    run.coordinator.interrupt(3.0)
    assert run.coordinator.phase is Phase.STOPPING
    with pytest.raises(NoPlace, match="about to end"):
        run.join(2, pid=1)


def test_who_waits_to_come_back_is_told_that_the_run_is_over() -> None:
    run = TwoRegions()
    run.coordinator.exited("w2", 2.0)
    run.join(2, pid=1)
    for name in ("w0", "w1"):
        run.coordinator.receive(run.registry.workers[name], Done(10, True, {"steps": 10}), 4.0)
    out = run.coordinator.receive(run.registry.workers["w0"], Result({"tokens_per_sample": 0}), 5.0)
    assert ("w2", Shutdown()) in out.messages


def test_nobody_comes_back_to_a_run_that_takes_none() -> None:
    coordinator = Coordinator(Registry(2))
    for slot in range(2):
        coordinator.join(details(slot), 1.0)
    coordinator.exited("w1", 2.0)
    with pytest.raises(NoPlace, match="w1 came when the run had begun"):
        coordinator.join(details(1, "another"), 3.0)


def test_a_loss_is_counted_by_group() -> None:
    restarts = RestartPolicy()
    for _ in range(RESTARTS):
        restarts.lost(["w0", "w1"])
    restarts.lost(["w2"])
    restarts.lost(["w0", "w1"])
    assert list(restarts.wanted) == [("w0", "w1")] * RESTARTS + [("w2",)]


def test_a_group_whose_rest_complained_of_the_loss_is_wanted_when_it_dies_again() -> None:
    run = TwoRegions()
    run.coordinator.exited("w3", 2.0)
    run.coordinator.receive(run.registry.workers["w2"], Failed("a worker of this replica died"), 2.0)
    assert run.wanted() == [("w2", "w3")]
    for slot in (2, 3):
        run.join(slot, pid=1)
    run.coordinator.exited("w3", 3.0)
    assert run.wanted() == [("w2", "w3")]
