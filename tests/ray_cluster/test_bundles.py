"""What the processes of a run are to have of a cluster."""

from __future__ import annotations

from dataclasses import replace

import pytest

from roadtrain.plan import Plan
from roadtrain.ray_cluster import bundles
from roadtrain.ray_cluster.asked import Asked
from roadtrain.ray_cluster.bundles import Seat, bundles_of, lacking, seat_of, total


def plan(workers: int, feeders: int = 0, device: str = "auto") -> Plan:
    usual = Plan()
    return replace(usual, place=replace(usual.place, workers=workers, feeders=feeders, device=device))


def test_a_cluster_of_others_gives_one_of_each():
    assert bundles_of(plan(2, 1), Asked(), own=False, gpus=8) == [{"CPU": 1, "GPU": 1}] * 2 + [{"CPU": 1}]
    assert bundles_of(plan(2), Asked(), own=False, gpus=0) == [{"CPU": 1}] * 2
    assert bundles_of(plan(1, device="cpu"), Asked(), own=False, gpus=8) == [{"CPU": 1}]


def test_what_was_asked_for():
    assert bundles_of(plan(1, 1), Asked(cpus=4, gpus=0.5), own=False, gpus=0) == [{"CPU": 4, "GPU": 0.5}, {"CPU": 1}]
    assert bundles_of(plan(1), Asked(gpus=0), own=False, gpus=8) == [{"CPU": 1}]


def test_a_machine_is_shared_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bundles, "cores", lambda: 8)
    assert bundles_of(plan(3), Asked(), own=True, gpus=1) == [{"CPU": 2, "GPU": 0.333}] * 3
    assert bundles_of(plan(16), Asked(), own=True, gpus=0) == [{"CPU": 1}] * 16
    assert bundles_of(plan(2), Asked(), own=True, gpus=8)[0]["GPU"] == 1


def test_what_is_lacking():
    wanted = total([{"CPU": 2, "GPU": 1}, {"CPU": 2, "GPU": 1}, {"CPU": 1}])
    assert wanted == {"CPU": 5, "GPU": 2}
    assert lacking(wanted, {"CPU": 5, "GPU": 1}) == "1 of 2 GPUs"
    assert lacking(wanted, {"CPU": 4}) == "4 of 5 CPUs and 0 of 2 GPUs"
    assert not lacking(wanted, {"CPU": 8, "GPU": 8, "memory": 1})


def test_seats():
    """Numbers on a machine count its workers; whoever has a GPU of its own sees no other."""
    hosts = ["a", "b", "a"]
    assert [seat_of(hosts, [{"CPU": 1}] * 3, n) for n in range(3)] == [Seat(0, 2), Seat(0, 1), Seat(1, 2)]
    assert seat_of(hosts, [{"CPU": 1, "GPU": 1}] * 3, 2) == Seat(0, 1)
