"""Each kind of bottleneck is named, by who it is, with its number and a setting that helps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from roadtrain.dashboard.bottleneck import Load, bottleneck, loads_of
from roadtrain.plan import Codec, Link, Place, Plan, Sync


def load(name: str, compute_s: float, sync_s: float = 0.0, feed_s: float = 0.0, sent: float = 0.0) -> Load:
    return Load(name, 100, compute_s, sync_s, feed_s, sent)


def plan(strategy: str = "ssgd", codec: str = "none", link: str = "") -> Plan:
    return Plan(sync=Sync(strategy=strategy), codec=Codec(up=codec), place=Place(workers=3, link=link))


def said(of: Plan, *loads: Load) -> str:
    shaped = Link.parse(of.place.link).rate_bytes_per_s if of.place.link else None
    found = bottleneck(of, [replace(each, capacity=each.capacity or shaped) for each in loads])
    assert found is not None
    return found


def test_nothing_was_trained() -> None:
    assert bottleneck(plan(), []) is None
    totals = {"steps": 0, "compute_s": 0.0, "sync_wait_s": 0.0, "feed_wait_s": 0.0, "bytes_sent": 0}
    assert loads_of(plan(), {"w0": totals}, {}) == []


def test_computing() -> None:
    assert said(plan(), load("w0", 95, 5), load("w1", 97, 3)).startswith("computing takes 96% of the time")
    assert "--workers" in said(plan(), load("w0", 95, 5)), "one alone waits for nobody"


def test_batches() -> None:
    found = said(plan(), load("w0", 60, 10, 30), load("w1", 50, 10, 40))
    assert found.startswith("w1 waits for batches 40% of the time; --feeders 2")
    fed = replace(plan(), place=Place(workers=2, feeders=3))
    assert "--feeders 4" in said(fed, load("w0", 60, 0, 40))


@pytest.mark.parametrize(
    ("strategy", "helps"),
    [("ssgd", "--sync diloco:20 --by-speed"), ("diloco:50", "--by-speed"), ("ssp:2", "--sync asgd")],
)
def test_a_slow_worker(strategy: str, helps: str) -> None:
    found = said(plan(strategy), load("w0", 10, 90), load("w1", 100), load("w2", 12, 88))
    assert found.startswith("w1 computes 1 s a step, the others 0.11 s, and w0 waits 90% of the time")
    assert helps in found


def test_a_line_that_is_full() -> None:
    found = said(plan(link="10mbit/5ms"), load("w0", 10, 90, sent=90e6), load("w1", 10, 90, sent=112.5e6))
    assert found == "w1's uplink carries 9 of 10 Mbit/s on the whole, and workers wait 90% of the time; --codec int8 would " \
        "send about a quarter"  # fmt: skip


@pytest.mark.parametrize(
    ("strategy", "codec", "helps"),
    [
        ("ssgd", "int8", "--codec int4"),
        ("ssgd", "int4", "--sync diloco:20"),
        ("diloco:50", "int4", "--sync diloco:100"),
        ("streaming:10", "topk:0.01", "--sync streaming:20"),
    ],
)
def test_what_would_send_less(strategy: str, codec: str, helps: str) -> None:
    of = plan(strategy, codec, "10mbit/5ms")
    assert helps in said(of, load("w0", 10, 90, sent=110e6), load("w1", 10, 90, sent=110e6))


def test_round_trips() -> None:
    found = said(plan(link="100mbit/50ms"), load("w0", 10, 90, sent=5e6), load("w1", 10, 90, sent=5e6))
    assert "0.4 of 100 Mbit/s" in found
    assert "round trips; --sync diloco:20 would agree 20 times less often" in found


def test_what_was_measured_stands_in_for_what_is_said() -> None:
    totals = {"steps": 10, "compute_s": 10.0, "sync_wait_s": 90.0, "feed_wait_s": 0.0, "bytes_sent": 100e6}
    workers = {"w0": totals, "w1": totals}
    assert "8 of 9.6 Mbit/s" in said(plan(), *loads_of(plan(), workers, {"w0": 1.2e6, "w1": None}))
    assert "of 10 Mbit/s" in said(plan(), *loads_of(plan(link="10mbit/5ms"), workers, {"w0": 1.2e6}))
    assert "w0 sends 8 Mbit/s" in said(plan(), *loads_of(plan(), workers, {}))
