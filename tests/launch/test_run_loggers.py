"""Figures reach loggers, whose packages are played by modules of the test, and none holds up or fails a run."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from people import details

from roadtrain.launch import run_loggers
from roadtrain.launch.run_control import RunControl
from roadtrain.launch.run_loggers import RunLoggers
from roadtrain.launch.run_request import RunRequest
from roadtrain.membership.effects import Effects
from roadtrain.plan import Plan, dumps
from roadtrain.wire.credentials import Credentials

WANDB_SHAPED = """
import json
class Run:
    def __init__(self, words): self.say("init", words)
    def say(self, what, words):
        with open({log!r}, "a") as file: file.write(json.dumps([{name!r}, what, words]) + "\\n")
    def log(self, figures, step): self.say("log", [figures, step])
    def finish(self): self.say("finish", None)
def init(**words):
    print("words of the logger")
    return Run(words)
"""
MLFLOW = """
import json
def say(what, words):
    with open({log!r}, "a") as file: file.write(json.dumps(["mlflow", what, words]) + "\\n")
def set_experiment(name): say("experiment", name)
def start_run(run_name): say("start", run_name)
def log_params(params): say("params", params)
def log_metrics(figures, step): say("log", [figures, step])
def end_run(): say("end", None)
"""


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file with all that stand-ins of the loggers were told."""
    log, modules = tmp_path / "said.jsonl", tmp_path / "modules"
    modules.mkdir()
    for name in ("wandb", "trackio"):
        (modules / f"{name}.py").write_text(WANDB_SHAPED.format(log=str(log), name=name))
    (modules / "mlflow.py").write_text(MLFLOW.format(log=str(log)))
    monkeypatch.syspath_prepend(str(modules))
    yield log
    for name in ("wandb", "trackio", "mlflow"):
        sys.modules.pop(name, None)


def lines(log: Path, name: str) -> list[Any]:
    return [words for who, *words in map(json.loads, log.read_text().splitlines()) if who == name]


def loggers(folder: Path, *names: str) -> tuple[RunLoggers, list[str]]:
    warnings: list[str] = []
    return RunLoggers(names, "a run", folder, {"job": {"steps": 5}}, warnings), warnings


def test_all_are_told_the_same(said: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logging, warnings = loggers(tmp_path, "wandb", "trackio", "mlflow")
    logging.log({"step": 1, "loss": 2.5, "time_s": 0.1, "worker": "w0", "bad": float("nan"), "none": None})
    logging.log({"step": 4, "loss": 1.5})
    logging.close({"val_loss": 1.25, "sample": "text", "tokens_per_sample": 0})
    assert warnings == []
    told = [["log", [{"loss": 2.5}, 1]], ["log", [{"loss": 1.5}, 4]], ["log", [{"val_loss": 1.25}, 4]]]
    for name in ("wandb", "trackio"):
        first, *rest = lines(said, name)
        assert first[1]["name"] == "a run"
        assert first[1]["config"] == {"job": {"steps": 5}}
        assert rest == [*told, ["finish", None]]
    begun = [["experiment", "roadtrain"], ["start", "a run"], ["params", {"job.steps": 5}]]
    assert lines(said, "mlflow") == [*begun, *told, ["end", None]]


def test_one_that_fails_is_left_out_and_the_others_go_on(said: Path, tmp_path: Path) -> None:
    sys.modules.pop("wandb", None)
    (tmp_path / "modules" / "wandb.py").write_text("def init(**words): raise SystemExit('log in first')")
    logging, warnings = loggers(tmp_path, "wandb", "mlflow")
    logging.log({"step": 1, "loss": 2.5})
    logging.close({})
    assert warnings == ["nothing is logged to wandb any more: SystemExit: log in first"]
    assert lines(said, "mlflow")[-1] == ["end", None]


def test_one_that_hangs_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    class Hanging:
        def begin(self, *words: Any) -> None:
            over.wait(60)

        log = end = begin

    monkeypatch.setattr(run_loggers, "ADAPTERS", {"wandb": Hanging})
    monkeypatch.setattr(run_loggers, "LAST_S", 0.05)
    monkeypatch.setattr(run_loggers, "WAITING_MAX", 3)
    logging, warnings = loggers(tmp_path, "wandb")
    for step in range(10):
        logging.log({"step": step, "loss": 1.0})
    logging.close({})
    over.set()
    assert "wandb did not take all figures" in warnings[0]


def test_without_loggers_there_is_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    logging, _ = loggers(tmp_path)
    logging.log({"step": 1, "loss": 1.0})
    logging.close({"val_loss": 1.0})
    assert threading.active_count() == before


def control_of(folder: Path, order: RunRequest, said_by_the_script: Plan | None = None, **more: Any) -> RunControl:
    """Of two workers that have joined."""
    control = RunControl(order, Credentials("token", secure=False), **more)
    plan = "" if said_by_the_script is None else dumps(said_by_the_script)
    for slot in range(2):
        control.coordinator.join(details(slot, plan=plan), 0.0)
    return control


def metric(control: RunControl, worker: str, step: int, loss: float) -> None:
    control.sessions._record(Effects(metrics=[{"worker": worker, "step": step, "loss": loss}]))


def order_of(folder: Path, log_to: tuple[str, ...]) -> RunRequest:
    plan = Plan()
    plan = replace(plan, watch=replace(plan.watch, log_to=log_to), place=replace(plan.place, workers=2))
    return RunRequest("a run", replace(plan, job=replace(plan.job, target="xor")), folder, None)


def test_figures_are_those_of_the_first_worker_that_lives(said: Path, tmp_path: Path) -> None:
    control = control_of(tmp_path, order_of(tmp_path, ("trackio",)))
    metric(control, "w0", 1, 3.0)
    metric(control, "w1", 1, 9.0)
    control.coordinator.exited("w0", 1.0)
    metric(control, "w1", 2, 2.0)
    control.abandon()
    assert [words[1] for words in lines(said, "trackio") if words[0] == "log"] == [
        [{"loss": 3.0}, 1],
        [{"loss": 2.0}, 2],
    ]


def test_what_a_script_says_counts(said: Path, tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text("")
    script = RunRequest.of({"job": {"target": str(file)}, "place": {"workers": 2}}, tmp_path)
    control = control_of(tmp_path, script, order_of(tmp_path, ("mlflow",)).plan)
    metric(control, "w0", 1, 3.0)
    control.abandon()
    assert ["log", [{"loss": 3.0}, 1]] in lines(said, "mlflow")


def test_a_fleets_coordinator_logs_nothing_and_says_so(said: Path, tmp_path: Path) -> None:
    control = control_of(tmp_path, order_of(tmp_path, ("wandb",)), logs=False)
    metric(control, "w0", 1, 3.0)
    control.abandon()
    assert not said.exists()
    assert "nothing is logged to wandb" in control.coordinator.warnings[0]


def test_tensorboard_has_event_files_in_the_runs_folder(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader  # pyright: ignore

    logging, warnings = loggers(tmp_path, "tensorboard")
    logging.log({"step": 3, "loss": 2.5})
    logging.close({"val_loss": 1.25})
    assert warnings == []
    (file,) = (tmp_path / "tensorboard").iterdir()
    found = [
        (v.tag, event.step, v.tensor.float_val[0])
        for event in EventFileLoader(str(file)).Load()
        for v in event.summary.value
    ]
    assert found == [("loss", 3, 2.5), ("val_loss", 3, 1.25)]
