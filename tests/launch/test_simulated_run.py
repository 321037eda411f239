"""Virtual runs of the built-in recipes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roadtrain.errors import RunFailed
from roadtrain.launch.run_request import RunRequest
from roadtrain.launch.simulated_run import run_virtual
from roadtrain.plan import Plan, load
from roadtrain.report import Report, from_json

BASE: dict[tuple[str, str], object] = {("job", "batch"): 8, ("watch", "log_every"): 4}


def plan_of(**given: Any) -> Plan:
    """A plan of `digits`; `section__name=value`."""
    flags = {tuple(key.split("__")): value for key, value in given.items()}
    return load("digits", None, {}, {**BASE, **flags})  # type: ignore[arg-type]


def run(folder: Path, plan: Plan) -> Report:
    order = RunRequest("a-run", plan, folder, resume=None)
    return run_virtual(order, lambda steps, virtual_s: None)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_run_leaves_what_a_real_one_leaves(tmp_path: Path) -> None:
    report = run(tmp_path, plan_of(place__workers=3, job__steps=10, place__link="100mbit/5ms"))
    assert from_json((tmp_path / "report.json").read_text()) == report
    assert (tmp_path / "plan.toml").exists()
    assert [event["event"] for event in lines(tmp_path / "events.jsonl")] == ["joined"] * 3
    metrics = lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in metrics if line["worker"] == "w1"] == [1, 4, 8, 10]
    assert set(metrics[0]) == {
        "worker",
        "step",
        "time_s",
        "loss",
        "compute_s",
        "sync_wait_s",
        "bytes_sent",
        "samples",
        "tokens",
    }
    assert report.steps == 30
    assert report.samples == 240
    assert report.val_loss is not None
    assert report.wall_s > metrics[-1]["time_s"] > 10 * 0.1
    assert report.first_step_s == pytest.approx(0.1)
    assert [worker.compute_s for worker in report.workers] == pytest.approx([1.0] * 3)
    assert report.utilisation == pytest.approx(3.0 / sum(w.compute_s + w.sync_wait_s for w in report.workers))
    assert report.bytes.sent == report.bytes.received == sum(worker.bytes_sent for worker in report.workers)
    assert all(worker.state_bytes > 100_000 for worker in report.workers)


def test_central_owners_and_any_speed_end_in_the_same_weights_when_rounds_are_synchronous(tmp_path: Path) -> None:
    plain = run(tmp_path / "a", plan_of(place__workers=3, job__steps=6))
    other = run(
        tmp_path / "b",
        plan_of(
            place__workers=3, job__steps=6, sync__owners="central", simulate__speeds="1,3", place__link="1mbit/9ms"
        ),
    )
    assert other.val_loss == plain.val_loss
    assert other.wall_s > 2 * plain.wall_s


@pytest.mark.parametrize("strategy", ["asgd", "localsgd:3"])
def test_the_seed_decides_all(tmp_path: Path, strategy: str) -> None:
    given = {"place__workers": 4, "job__steps": 6, "sync__strategy": strategy, "simulate__speeds": "lognormal:0.5"}
    one, two, other = (
        run(tmp_path / name, plan_of(**given, job__seed=seed)) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert replace(one, folder="") == replace(two, folder="")
    assert other.val_loss != one.val_loss
    assert other.wall_s != one.wall_s


def test_costs_alone_take_the_same_time_and_bytes(tmp_path: Path) -> None:
    given = {"place__workers": 4, "job__steps": 6, "place__link": "20mbit/10ms", "codec__up": "int8"}
    real = run(tmp_path / "a", plan_of(**given))
    cost = run(tmp_path / "b", plan_of(**given, simulate__cost_only=True))
    assert cost.bytes == real.bytes
    assert cost.wall_s == pytest.approx(real.wall_s)
    assert (cost.val_loss, cost.train_loss, cost.sample) == (None, None, None)
    assert lines(tmp_path / "b" / "metrics.jsonl")[0]["loss"] is None


@pytest.mark.parametrize("strategy", ["localsgd:2", "asgd"])
def test_a_gradient_is_clipped_as_by_a_real_worker(tmp_path: Path, strategy: str) -> None:
    """With plain SGD a clipped step is shorter than lr * clip, and the model of a run of few steps near where it began."""
    given = {"place__workers": 2, "job__steps": 4, "sync__strategy": strategy, "optimizer__name": "sgd"}
    losses = [
        run(tmp_path / str(clip), plan_of(**given, optimizer__lr=0.05, optimizer__clip=clip)).val_loss
        for clip in (0.0, 1e6, 1e-6)
    ]
    untrained = run(tmp_path / "none", plan_of(**given, optimizer__lr=1e-12)).val_loss
    assert losses[0] == losses[1]
    assert losses[2] == pytest.approx(untrained, rel=1e-4)
    assert losses[0] != pytest.approx(untrained, rel=1e-2)


def test_a_straggler_costs_what_it_costs_in_a_real_run(tmp_path: Path) -> None:
    slow = ("worker=1,factor=5,every=2",)
    report = run(tmp_path, plan_of(place__workers=2, job__steps=6, place__straggler=slow))
    w0, w1 = report.workers
    assert w0.compute_s == pytest.approx(0.6)
    assert w1.compute_s == pytest.approx(0.6 + 3 * 0.4)
    assert w0.sync_wait_s > 3 * 0.4


def test_crashes_are_told_and_survived(tmp_path: Path) -> None:
    report = run(tmp_path, plan_of(place__workers=5, job__steps=60, simulate__crash_rate=200.0, job__seed=5))
    events = lines(tmp_path / "events.jsonl")
    lost = [event["worker"] for event in events if event["event"] == "lost"]
    assert 0 < len(lost) == report.events.lost < 5
    assert {worker.id for worker in report.workers} >= {f"w{i}" for i in range(5)} - set(lost)  # others counted too
    assert report.events.handoffs == sum(len(e["fragments"]) for e in events if e["event"] == "handoff") > 0
    assert report.status == "finished"


def test_owner_and_standby_lost_at_once_end_the_run_with_a_report(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="lost its owner and its standby"):
        run(tmp_path, plan_of(place__workers=6, job__steps=60, simulate__crash_rate=5000.0))
    assert from_json((tmp_path / "report.json").read_text()).status == "failed"


def test_lost_messages_are_asked_for_again(tmp_path: Path) -> None:
    plain = run(tmp_path / "a", plan_of(place__workers=3, job__steps=8))
    lossy = run(tmp_path / "b", plan_of(place__workers=3, job__steps=8, simulate__loss=0.1))
    assert lossy.val_loss == plain.val_loss
    assert lossy.wall_s > plain.wall_s


def test_regions_of_a_topology_are_in_the_report(tmp_path: Path) -> None:
    file = tmp_path / "topology.toml"
    file.write_text(
        '[[region]]\nname = "lab"\nworkers = 2\nlink = "1gbit/1ms"\n'
        '[[region]]\nname = "home"\nlink = "1gbit/1ms"\nup = "5mbit"\n'
        '[[between]]\nregions = ["lab", "home"]\nlink = "unlimited/20ms"\n'
    )
    report = run(tmp_path / "run", plan_of(place__workers=3, job__steps=3, simulate__topology=str(file)))
    assert [worker.region for worker in report.workers] == ["lab", "lab", "home"]
    assert report.utilisation < 0.5


def test_a_run_that_diverges_fails_with_a_report(tmp_path: Path) -> None:
    plan = plan_of(place__workers=2, job__steps=12, optimizer__name="sgd", optimizer__lr=1e18)
    with pytest.raises(RunFailed, match=r"the model diverged: its loss is not finite since step \d"):
        run(tmp_path, plan)
    report = from_json((tmp_path / "report.json").read_text())
    assert (report.status, report.train_loss) == ("failed", None)
