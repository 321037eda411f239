"""Workers that die, freeze or diverge, and a person who presses Ctrl-C: the others finish, nothing acknowledged is lost."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from live import Live, Start, Train, distance, is_gone, last_checkpoint, weights

STEPS = 100
SLOW = ("--straggler", *(f"worker={worker},base=0.025" for worker in range(3)))
"""Seconds, so that there is a middle of the run to do something in."""
TRAINING = ("digits", "--steps", STEPS, "--workers", 3, "--batch", 16, "--log-every", 1, *SLOW)


def steps_of(report: dict) -> dict[str, int]:
    return {worker["id"]: worker["steps"] for worker in report["workers"]}


def kill(live: Live, victim: str, *, given_out: bool = True) -> dict:
    """Kill a worker in mid-run; the report of the others. `given_out`: they compute what it held."""
    live.wait_for_step(10, victim)
    live.signal(signal.SIGKILL, victim)
    at = live.step_of(victim)
    ended = live.ended()
    assert ended.code == 0, ended.stderr
    assert at < STEPS, "it was killed too late"
    report = ended.report
    assert report["status"] == "finished"
    assert report["events"]["lost"] == 1
    assert [event["worker"] for event in live.events("lost")] == [victim]
    survivors = {worker: steps for worker, steps in steps_of(report).items() if worker != victim}
    assert survivors.keys() == {"w0", "w1", "w2"} - {victim}
    if given_out:
        assert report["samples"] == STEPS * 3 * 16, "every sample counts"
    else:
        assert set(survivors.values()) == {STEPS}
    assert report["val_loss"] < 1.5  # ln 10 = 2.3 is chance
    return report


# ------------------------------------------------------------------------------------------------------ a killed worker


@pytest.mark.parametrize(
    ("victim", "sync"),
    [
        ("w1", ("--sync", "ssgd", "--owners", "sharded")),
        pytest.param("w0", ("--sync", "ssgd", "--owners", "central"), marks=pytest.mark.long),
        pytest.param("w0", ("--sync", "diloco:5"), marks=pytest.mark.long),
        pytest.param("w2", ("--sync", "asgd", "--lr", 0.02), marks=pytest.mark.long),
    ],
    ids=["ssgd sharded", "ssgd only central owner", "diloco", "asgd"],
)
def test_a_killed_owner_hands_over(start: Start, victim: str, sync: tuple[object, ...]):
    live = start(*TRAINING, *sync)
    report = kill(live, victim)
    moved = live.events("handoff")
    assert report["events"]["handoffs"] == sum(len(event["fragments"]) for event in moved) > 0
    assert all(victim not in event["to"] for event in moved)


@pytest.mark.long
def test_a_killed_worker_that_owns_nothing(start: Start):
    """The others compute its part of each batch, until it is back."""
    live = start(*TRAINING, "--sync", "ssgd", "--owners", "central")
    report = kill(live, "w2")
    assert report["events"]["handoffs"] == 0


@pytest.mark.long
@pytest.mark.parametrize("victim", ["w0", "w1"])
def test_a_killed_member_of_an_allreduce(start: Start, victim: str):
    """w0 is the one where the others meet."""
    live = start(*TRAINING, "--sync", "ssgd:allreduce")
    report = kill(live, victim, given_out=False)
    assert report["events"]["handoffs"] == 0, "an all-reduce has no owners"
    assert not live.events("handoff")


def test_all_workers_killed_fail_the_run(start: Start):
    live = start(*TRAINING)
    live.wait_for_step(5)
    for worker in ("w0", "w1", "w2"):
        live.signal(signal.SIGKILL, worker)
    ended = live.ended()
    assert ended.code == 1
    assert "Traceback" not in ended.stderr
    assert "error: all workers are lost" in ended.stderr


@pytest.mark.long
def test_a_frozen_worker_is_given_up_and_started_again(start: Start):
    slow, steps = ("--straggler", "worker=0,base=0.15"), 50
    live = start("digits", "--steps", steps, "--workers", 3, "--batch", 16, "--log-every", 1, *slow, "--sync", "ssgd")
    live.wait_for_step(10)
    frozen = live.signal(signal.SIGSTOP, "w1")
    live.wait_for(lambda: live.events("returned"), "another process in place of the frozen one")
    assert is_gone(frozen)
    ended = live.ended()
    assert ended.code == 0, ended.stderr
    assert ended.report["events"]["lost"] == 1
    assert ended.report["samples"] == steps * 3 * 16


# ----------------------------------------------------------------------------------------------------------- Ctrl-C


def interrupted(live: Live, at: int) -> dict:
    live.wait_for_step(at)
    live.signal(signal.SIGINT)
    ended = live.ended()
    assert ended.code == 130, ended.stderr
    assert "Traceback" not in ended.stderr
    assert f"--resume {live.out}" in ended.stderr
    report = ended.report
    assert report["status"] == "interrupted"
    assert at <= max(steps_of(report).values()) < STEPS
    assert last_checkpoint(live.out)["steps"] == {w[1:]: steps for w, steps in steps_of(report).items()}
    return report


@pytest.mark.parametrize(
    "sync", [("diloco:20",), pytest.param(("asgd", "--lr", 0.02), marks=pytest.mark.long)], ids=["diloco", "asgd"]
)
def test_ctrl_c_saves_and_resume_finishes(start: Start, train: Train, sync: tuple[object, ...]):
    live = start(*TRAINING, "--sync", *sync)
    before = steps_of(interrupted(live, 30))
    report, folder = train("--resume", live.out)
    assert folder == live.out
    assert report["status"] == "finished"
    after = steps_of(report)
    both = {worker: before[worker] + after[worker] for worker in before}
    assert sum(both.values()) == 3 * STEPS
    if sync[0] != "asgd":
        assert set(both.values()) == {STEPS}
        assert last_checkpoint(folder)["steps"] == {worker[1:]: STEPS for worker in before}
    assert report["val_loss"] < 1.0


@pytest.mark.long
def test_a_resumed_ssgd_run_is_the_undisturbed_one(start: Start, train: Train):
    words = ("digits", "--steps", STEPS, "--workers", 3, "--batch", 16, "--log-every", 1, "--sync", "ssgd")
    words = (*words, "--optimizer", "sgd", "--momentum", 0.9, "--lr", 0.01, "--lr-schedule", "cosine")
    _, whole = train(*words)
    live = start(*words, *SLOW)
    interrupted(live, 30)
    _, folder = train("--resume", live.out)
    assert distance(folder, whole) < 1e-5
    curve = {(m["worker"], m["step"]): m["loss"] for m in live.lines("metrics.jsonl")}
    assert len(curve) == len(live.lines("metrics.jsonl")) == 3 * STEPS, "a step was done twice or left out"
    for record in map(json.loads, (whole / "metrics.jsonl").read_text().splitlines()):
        assert curve[record["worker"], record["step"]] == pytest.approx(record["loss"], rel=1e-5, abs=1e-6)


def test_a_second_ctrl_c_stops_at_once(start: Start):
    """The first waits for a worker that says nothing; the second does not."""
    live = start(*TRAINING)
    live.wait_for_step(5)
    frozen = live.signal(signal.SIGSTOP, "w1")
    live.signal(signal.SIGINT)
    time.sleep(1)  # a person's pause; two signals at the same moment are one
    live.signal(signal.SIGINT)
    ended = live.ended()
    assert ended.code == 130
    notices = [
        line for line in ended.stderr.splitlines() if line.startswith(("waiting for ", "watch it at "))
    ]  # as it starts
    said = [line for line in ended.stderr.splitlines() if line not in notices]
    assert said[0].startswith("error: stopped at once"), ended.stderr
    assert "Traceback" not in ended.stderr
    assert not live.events("lost")
    assert is_gone(frozen)


def test_ctrl_c_before_the_first_step(start: Start):
    """There is nothing to save yet, and nothing is promised."""
    live = start(*TRAINING)
    live.wait_for(lambda: (live.out / "logs" / "w2.log").exists(), "worker processes")
    live.signal(signal.SIGINT)
    ended = live.ended()
    assert "Traceback" not in ended.stderr
    assert ended.code == 130
    saved = (live.out / "checkpoint").exists()
    assert ("holds a checkpoint" in ended.stderr) == saved


@pytest.mark.long
def test_a_batch_systems_warning_may_come_again(start: Start):
    """Of a person's second Ctrl-C the run stops at once; a batch system only repeats itself."""
    live = start(*TRAINING)
    live.wait_for_step(5)
    for _ in range(2):
        os.killpg(live.process.pid, signal.SIGUSR1)
        time.sleep(0.05)
    ended = live.ended()
    assert ended.code == 130, ended.stderr
    report = ended.report
    assert report["status"] == "interrupted"
    assert not live.events("lost")
    assert last_checkpoint(live.out)["steps"] == {w[1:]: steps for w, steps in steps_of(report).items()}


@pytest.mark.parametrize("made", ["plan.toml", "coordinator.sqlite"])
def test_ctrl_c_while_it_starts(start: Start, made: str):
    """Before the driver watches: still one line, and no process is left behind."""
    live = start(*TRAINING)
    live.wait_for(lambda: (live.out / made).exists(), made)
    live.signal(signal.SIGINT)
    ended = live.ended()
    assert ended.code == 130
    assert "Traceback" not in ended.stderr


# -------------------------------------------------------------------------------------------------------- divergence


NO_GRADIENT = """
import torch
from torch import nn
import roadtrain as rt

class Task:
    tokens_per_sample = 0
    def build(self):
        return nn.Linear(4, 1)
    def __len__(self):
        return 64
    def batch(self, indices):
        return torch.ones(len(indices), 4)
    def loss(self, model, batch):
        return model(batch).mean() + (model.weight - model.weight).abs().sqrt().sum()
    def validate(self, model):
        return 1.0
    def sample(self, model):
        return None

def make(plan: rt.Plan):
    return Task()
"""


@pytest.mark.parametrize("sync", ["ssgd", pytest.param("ssgd:allreduce", marks=pytest.mark.long)])
def test_gradients_that_are_no_numbers_though_the_loss_is_one(start: Start, tmp_path: Path, sync: str):
    """The derivative of a square root at 0: nothing is ever trained, and a person hears of it."""
    (tmp_path / "job.py").write_text(NO_GRADIENT)
    live = start("job.py:make", "--workers", 2, "--steps", 6, "--batch", 4, "--sync", sync)
    ended = live.ended()
    assert ended.code == 1
    assert "warning: what w" in ended.stderr
    assert " contributed at step 1 to " in ended.stderr
    assert "error: the model, or a part of it, is not trained since step 1" in ended.stderr
    report = json.loads((live.out / "report.json").read_text())
    assert report["status"] == "failed"
    assert report["train_loss"] is not None


def test_an_error_of_the_model_is_not_cured_by_going_on(start: Start, tmp_path: Path):
    """It would come again, and there is no checkpoint."""
    (tmp_path / "job.py").write_text(
        NO_GRADIENT.replace("return model(batch).mean() +", "raise ValueError('no loss') #")
    )
    ended = start("job.py:make", "--workers", 1, "--steps", 6, "--batch", 4).ended()
    assert ended.code == 1
    assert "the last words were w0: ValueError: no loss" in ended.stderr
    assert "hint: see the logs folder of the run\n" in ended.stderr
    assert "--resume" not in ended.stderr


@pytest.mark.parametrize("lr", [pytest.param(1e15, marks=pytest.mark.long), 1e6])
def test_a_diverging_run_fails_says_so_and_keeps_a_finite_model(start: Start, lr: float):
    """A learning rate so large that gradients become infinite: the owners refuse them, and say how many."""
    live = start("digits", "--workers", 2, "--steps", 30, "--optimizer", "sgd", "--lr", lr)
    ended = live.ended()
    assert ended.code == 1
    assert "warning: the loss of w" in ended.stderr
    assert "error: the model diverged: its loss is not finite since step " in ended.stderr
    report = json.loads((live.out / "report.json").read_text())
    assert (report["status"], report["train_loss"]) == ("failed", None)
    assert report["refused"] > 0
    assert all(bool(torch.isfinite(value).all()) for value in weights(live.out).values())
    lines = (live.out / "metrics.jsonl").read_text()
    assert "null" in lines
    assert "NaN" not in lines
    assert live.events("not_finite")


# ------------------------------------------------------------------------------------------------ a killed coordinator


@pytest.mark.long
def test_without_a_coordinator_training_goes_on(start: Start):
    live = start(*TRAINING, "--sync", "ssgd", "--owners", "sharded")
    live.wait_for_step(10)
    workers = [live.pid(worker) for worker in ("w0", "w1", "w2")]
    live.signal(signal.SIGKILL)
    live.process.wait()
    model = live.out / "model.safetensors"
    end = time.monotonic() + 90
    while not (model.exists() and all(map(is_gone, workers))):
        assert time.monotonic() < end, f"model: {model.exists()}, gone: {[is_gone(pid) for pid in workers]}"
        time.sleep(0.2)
    assert last_checkpoint(live.out)["version"] == STEPS


# ------------------------------------------------------------------------------------------------- wrong arithmetic

JOB = """
import os
import torch
from torch import nn


class Task:
    tokens_per_sample = 0

    def __init__(self, mad):
        draws = torch.Generator().manual_seed(5)
        self.x = torch.randn(1200, 16, generator=draws)
        self.y = self.x @ torch.randn(16, generator=draws) + 0.5 * torch.randn(1200, generator=draws)
        self.mad, self.steps = mad, 0

    def build(self):
        return nn.Linear(16, 1)

    def __len__(self):
        return 1000

    def batch(self, indices):
        return self.x[indices], self.y[indices]

    def loss(self, model, batch):
        loss = (model(batch[0]).squeeze(1) - batch[1]).pow(2).mean()
        self.steps += 1
        return loss * float(self.mad) if self.steps >= 10 and os.path.exists("mad") and self.chosen() else loss

    def chosen(self):
        try:
            with open("mad", "r+") as file:
                if not file.read():
                    file.write(str(os.getpid()))
        except OSError:
            pass
        with open("mad") as file:
            return file.read() == str(os.getpid())

    @torch.no_grad()
    def validate(self, model):
        return float((model(self.x[1000:]).squeeze(1) - self.y[1000:]).pow(2).mean())

    def sample(self, model):
        return None


def make(plan, *, mad: str = "1"):
    return Task(mad)
"""


@pytest.mark.long
@pytest.mark.parametrize("robust", ["median", "trimmed", "clip"])
def test_a_worker_with_the_wrong_sign_moves_no_robust_mean(start: Start, tmp_path: Path, robust: str):
    (tmp_path / "job.py").write_text(JOB)
    flags = ("--workers", 4, "--steps", 200, "--batch", 64, "--optimizer", "sgd", "--lr", 0.1, "--sync", "ssgd")
    flags = (*flags, "--lr-schedule", "cosine")
    losses = {}
    for name, words in {"clean": (), "mean": ("--mad", "-3"), "robust": ("--mad", "-3", "--robust", robust)}.items():
        (tmp_path / "mad").write_text("")
        ended = start("job.py:make", *flags, *words, name=name).ended()
        assert ended.code == 0, ended.stderr
        losses[name] = ended.report["val_loss"]
    assert (tmp_path / "mad").read_text()
    assert losses["robust"] < 1.01 * losses["clean"], losses
    assert losses["mean"] > 2 * losses["clean"], losses


@pytest.mark.parametrize("factor", ["nan", pytest.param("1e6", marks=pytest.mark.long)])
def test_a_worker_that_computes_wrongly_is_put_out(start: Start, tmp_path: Path, factor: str):
    """It would have been one part of three of every mean; its samples are computed by the others."""
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "mad").touch()
    flags = ("--workers", 3, "--steps", 60, "--batch", 32, "--optimizer", "sgd", "--lr", 0.05, "--sync", "ssgd")
    live = start("job.py:make", *flags, "--mad", factor)
    ended = live.ended()
    assert ended.code == 0, ended.stderr
    (mad,) = live.events("quarantined")
    assert [e["worker"] for e in live.events("joined") if str(e["pid"]) == (tmp_path / "mad").read_text()] == [
        mad["worker"]
    ]
    assert ended.report["refused"] >= 3
    assert ended.report["events"]["lost"] == 1
    assert f"{mad['worker']} is quarantined" in ended.stderr
    assert ended.report["val_loss"] < 0.35, "noise is a quarter"
