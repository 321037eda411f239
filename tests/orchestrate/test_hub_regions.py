"""Where a run goes that leaves its regions to its machines: measurements and time handed in."""

from __future__ import annotations

import json
from itertools import combinations

from told_fleet import Fleet, Story, places

from roadtrain.membership.detector import Detector
from roadtrain.membership.messages import Join, JoinRequest
from roadtrain.membership.record import WorkerRecord
from roadtrain.membership.state import State
from roadtrain.orchestrate.fleet_state import FleetState
from roadtrain.orchestrate.hub import Hub
from roadtrain.orchestrate.machine import Door, MachineLink, Report
from roadtrain.orchestrate.near import MEASURED_S
from roadtrain.orchestrate.register import Register
from roadtrain.plan import Plan, layouts_of, parse

JOINED = JoinRequest(
    address="", structure="", digests={}, sizes=(), model_bytes=0, sharded=True, rounds=True, period=5, plan=""
)


def fleet_of(fleet: Fleet, *clusters: str, far_ms: float = 60.0) -> None:
    """Machines, measured: 1 ms inside a cluster, `far_ms` between them."""
    of = {name: number for number, cluster in enumerate(clusters) for name in cluster.split()}
    for name in sorted(of):
        fleet.machine(name)
        door = Door(f"{name}:1", "0" * 64)
        fleet.hear(fleet.presences[name], Report(workers=(), door=door))
    for pair in combinations(sorted(of), 2):
        rtt_ms = 1.0 if of[pair[0]] == of[pair[1]] else far_ms
        fleet.links.known[pair] = MachineLink(rtt_ms=rtt_ms, out=1.0, back=1.0, measured=fleet.clock)


def auto(fleet: Fleet, *spread: str, workers: int | None = None) -> str:
    flags = {("layout", "regions"): "auto", ("layout", "spread"): spread, ("sync", "strategy"): "diloco:5"}
    return fleet.run_of("digits", workers, flags)


def plan_of(fleet: Fleet, run: str) -> Plan:
    return parse((fleet.run_folder(run) / "plan.toml").read_text())


def machines(fleet: Fleet, run: str) -> list[str]:
    return [machine for _, machine, _ in places(fleet, run)]


def test_workers_are_placed_region_by_region_and_all_are_told(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        fleet_of(fleet, "a c", "b")
        run = auto(fleet)
        assert machines(fleet, run) == ["a", "c", "b"]
        plan = plan_of(fleet, run)
        assert (plan.layout.regions, plan.layout.spread) == (2, ("r0=dp:2", "r1=dp:1"))
        assert plan.place.workers == 3
        assert fleet.runs[run].note == "regions: r0 a c (dp:2), r1 b (dp:1); diloco:5 between them"
        event = json.loads((fleet.run_folder(run) / "events.jsonl").read_text().splitlines()[0])
        assert [region["machines"] for region in event["regions"]] == [["a", "c"], ["b"]]
        assert [region["workers"] for region in event["regions"]] == [["w0", "w1"], ["w2"]]

    story(told)


def test_one_region_is_replicas_by_themselves_that_others_may_join(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        fleet_of(fleet, "a b")
        run = auto(fleet)
        assert (plan_of(fleet, run).layout.regions, layouts_of(plan_of(fleet, run))) == (1, ())
        fleet.train(run)
        fleet.machine("c")
        fleet.tick()
        assert machines(fleet, run) == ["a", "b", "c"]

    story(told)


def test_a_run_waits_a_moment_for_measurements_and_then_goes_by_what_is_known(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        fleet_of(fleet, "a b")
        fleet.links.known.clear()
        run = auto(fleet)
        assert places(fleet, run) == []
        assert "measured" in fleet.runs[run].note
        fleet.clock += MEASURED_S + 1
        fleet.tick()
        assert machines(fleet, run) == ["a", "b"]
        assert "no two machines are near each other" in fleet.runs[run].note

    story(told)


def test_a_layout_waits_for_machines_that_are_near_each_other(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        fleet_of(fleet, "a", "b")
        run = auto(fleet, "fsdp:2", workers=2)
        assert places(fleet, run) == []
        assert "2 for each fsdp:2" in fleet.runs[run].note
        fleet.machine("c")
        for pair, rtt_ms in {("b", "c"): 2.0, ("a", "c"): 60.0}.items():
            fleet.links.known[pair] = MachineLink(rtt_ms=rtt_ms, out=None, back=None, measured=fleet.clock)
        fleet.tick()
        assert machines(fleet, run) == ["b", "c"]
        assert [str(layout) for layout in layouts_of(plan_of(fleet, run))] == ["fsdp:2"]

    story(told)


def test_a_started_again_coordinator_goes_on_with_the_regions_and_the_matrix(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        fleet_of(fleet, "a c", "b")
        fleet.links.news += list(fleet.links.known)
        run = auto(fleet)
        fleet.train(run)
        before = plan_of(fleet, run)
        again = Fleet.__new__(Fleet)
        Hub.__init__(again, Register(fleet.folder), fleet.folder, b"secret")
        again.begin()
        control = again.runs[run].control
        assert control is not None
        assert control.order.plan == before
        assert again.links.regions(["a", "b", "c"]) == [("a", "c"), ("b",)]

    story(told)


def test_a_place_in_a_region_is_filled_from_near_and_by_a_machine_that_listens(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        fleet_of(fleet, "a b", "c d")
        run = auto(fleet)
        fleet.train(run)
        hosted = fleet.runs[run]
        hosted.places = tuple(place for place in hosted.places if place.machine != "b")
        hosted._banned.add("b")
        fleet.machine("far")
        fleet.machine("mute", listens=False)
        fleet.machine("near")
        for pair, rtt_ms in {("a", "far"): 60.0, ("c", "far"): 1.0, ("a", "mute"): 1.0, ("a", "near"): 1.0}.items():
            fleet.links.known[pair] = MachineLink(rtt_ms=rtt_ms, out=None, back=None, measured=fleet.clock)
        fleet.tick()
        assert sorted(places(fleet, run)) == [(0, "a", 1), (1, "near", 1), (2, "c", 1), (3, "d", 1)]

    story(told)


def test_status_shows_the_matrix_of_machines_and_their_regions(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        fleet_of(fleet, "a c", "b")
        state = FleetState(fleet)
        assert state.machine_regions() == [
            {"region": "r0", "machines": ["a", "c"]},
            {"region": "r1", "machines": ["b"]},
        ]
        assert {(link["from"], link["to"]): link["rtt_ms"] for link in state.machine_links()}["b", "a"] == 60.0
        fleet.links.forget("b")
        assert len(state.machine_links()) == 2

    story(told)


def test_a_plan_that_cannot_be_settled_ends_its_run_and_holds_up_no_other(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        fleet_of(fleet, "a b")
        wrong, right = auto(fleet, "r0=dp:2"), auto(fleet)
        assert fleet.runs[wrong].status == "failed"
        assert machines(fleet, right) == ["a", "b"]

    story(told)


def lose(fleet: Fleet, run: str, *workers: str) -> None:
    """The coordinator of a run has taken these for lost."""
    control = fleet.runs[run].control
    assert control is not None
    registry = control.coordinator.registry
    for name in workers:
        said = Join("", int(name[1:]), 0, "", JOINED)
        registry.workers[name] = WorkerRecord(name, 1, said, workers[0], Detector(1.0, 0.0), State.GONE)
    control.coordinator.restarts.lost(workers)


def test_all_of_a_lost_replica_are_started_again_and_their_machines_are_not_to_blame(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        fleet_of(fleet, "a b", "c d")
        run = auto(fleet)
        fleet.train(run)
        lose(fleet, run, "w2", "w3")
        fleet.end("c", 1)  # its collective has failed
        fleet.beat("c")
        assert sorted(places(fleet, run)) == [(0, "a", 1), (1, "b", 1), (2, "c", 2), (3, "d", 2)]
        fleet.pass_time(3)
        assert sorted(places(fleet, run))[2:] == [(2, "c", 2), (3, "d", 2)]

    story(told)
