"""What a fleet's page is told, and what a person may ask of a machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from told_fleet import Fleet, Story

from roadtrain.errors import UsageError
from roadtrain.orchestrate.fleet_state import FleetState
from roadtrain.orchestrate.machine import Report


class Heard:
    """Listens to a fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self.records: list[Mapping[str, Any]] = []
        fleet.broadcast.publish = self.records.append  # type: ignore[method-assign]

    def of(self, *events: str) -> list[tuple[str, str]]:
        return [(r["event"], r.get("machine") or r["run"]) for r in self.records if r["event"] in events]


def test_machines_that_come_go_and_fall_silent_are_told(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        heard = Heard(fleet)
        a, b = fleet.machine("a"), fleet.machine("b")
        fleet.clock += 20
        fleet.hear(a, Report(workers=()))
        fleet.tick()
        fleet.clock += 1
        fleet.hear(b, Report(workers=()))
        fleet.tick()
        fleet.hear(a, Report(workers=(), left=True))
        fleet.tick()
        assert heard.of("joined", "away", "back", "left") == [
            ("joined", "a"),
            ("joined", "b"),
            ("away", "b"),
            ("back", "b"),
            ("left", "a"),
        ]

    story(told)


def test_a_run_is_told_from_its_submission_to_its_end(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        heard = Heard(fleet)
        fleet.machine("a")
        run = fleet.run_of(workers=1)
        fleet.runs[run].stop(at_once=True)
        fleet.tick()
        assert ("submitted", run) in heard.of("submitted")
        (shown,) = FleetState(fleet).runs()
        assert (shown["run"], shown["target"], shown["sync"], shown["steps"]) == (run, "xor", "ssgd", 100)

    story(told)


def test_a_machine_that_is_to_leave_is_told_so_and_gets_nothing_more_to_do(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        a = fleet.machine("a")
        assert not fleet.orders_for(a).leaves
        fleet.let_go("a")
        assert fleet.orders_for(a).leaves
        assert FleetState(fleet).machines()[0]["state"] == "leaving"
        run = fleet.run_of(workers=1)
        assert fleet.runs[run].status == "queued"
        fleet.machine("b")
        fleet.tick()
        assert [place.machine for place in fleet.runs[run].places] == ["b"]

    story(told)


def test_there_is_no_machine_of_that_name(story: Story) -> None:
    async def told(fleet: Fleet) -> None:
        with pytest.raises(UsageError, match="no machine c here"):
            fleet.let_go("c")

    story(told)
