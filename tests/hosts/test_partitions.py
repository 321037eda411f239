"""Hosts that cannot reach each other for a while, or for good: real ranks in network namespaces, and silent lines."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from live import Train
from namespaces import Lines, network, ranks

STEPS = 600
SLOW = ("--straggler", *(f"worker={worker},base=0.1" for worker in range(3)))
TRAINING = ("digits", "--steps", STEPS, "--batch", 16, "--log-every", 1)
STRATEGIES = {"ssgd": ("ssgd",), "diloco": ("diloco:5",), "asgd": ("asgd", "--lr", 0.02)}

pytestmark = pytest.mark.long


@pytest.mark.parametrize("name", ["ssgd", "diloco"])
def test_a_worker_that_is_cut_off_comes_back_and_all_end_alike(tmp_path: Path, train: Train, name: str) -> None:
    undisturbed, _ = train(*TRAINING, "--workers", 3, "--sync", *STRATEGIES[name])
    with network(3, Lines(delay_s=0.005)) as net:
        words = (*TRAINING, *SLOW, "--sync", *STRATEGIES[name])
        with ranks(net, tmp_path / "run", 3, *words) as running:
            live = running[0]
            live.wait_for_step(20, "w2")
            net.cut(2)
            time.sleep(15.0)
            assert [event["worker"] for event in live.events("lost")] == ["w2"]
            net.heal(2)
            live.wait_for(lambda: live.events("returned"), "its return", 30)
            ended = [one.ended(180) for one in running]
    assert [one.code for one in ended] == [0, 0, 0], [one.stderr for one in ended]
    assert {live.step_of(worker) for worker in ("w0", "w1", "w2")} == {STEPS}
    assert len(live.events("lost")) == 1
    assert ended[0].report["val_loss"] == pytest.approx(undisturbed["val_loss"], rel=0.1)  # of 0.07, on 360 digits


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["ssgd", "asgd"])
def test_of_two_workers_that_never_reach_each_other_again_one_is_lost_and_the_others_go_on(
    tmp_path: Path, name: str
) -> None:
    with network(3, Lines(delay_s=0.005)) as net:
        words = (*TRAINING, *SLOW, "--sync", *STRATEGIES[name])
        with ranks(net, tmp_path / "run", 3, *words) as running:
            live = running[0]
            live.wait_for_step(20, "w2")
            net.cut(1, 2)
            ended = [one.ended(500) for one in running]
    assert [one.code for one in ended[:2]] == [0, 0], [one.stderr for one in ended]
    assert {event["worker"] for event in live.events("lost")} == {"w2"}
    assert live.step_of("w0") == live.step_of("w1") == STEPS
    assert "Traceback" not in ended[2].stderr


def test_two_workers_that_do_not_reach_each_other_for_a_while_go_on(tmp_path: Path) -> None:
    with network(3, Lines(delay_s=0.005)) as net:
        with ranks(net, tmp_path / "run", 3, *TRAINING, *SLOW, "--sync", *STRATEGIES["diloco"]) as running:
            live = running[0]
            live.wait_for_step(20, "w2")
            net.cut(1, 2)
            time.sleep(10.0)
            net.heal(1, 2)
            ended = [one.ended(180) for one in running]
    assert [one.code for one in ended] == [0, 0, 0], [one.stderr for one in ended]
    assert not live.events("lost")
    assert {live.step_of(worker) for worker in ("w0", "w1", "w2")} == {STEPS}
