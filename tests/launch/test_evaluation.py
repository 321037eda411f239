"""A run's model is looked at again: with its job, and the weights of its folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from roadtrain.checkpoint.checkpoint import Checkpoints, Shared
from roadtrain.checkpoint.export import export
from roadtrain.cli.main import main
from roadtrain.errors import RunFailed, UsageError
from roadtrain.launch.evaluation import evaluate
from roadtrain.plan import Plan, dumps, dumps_tables

JOB = """
import torch
from torch import nn


class Tied(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Linear(width, width, bias=False)
        self.last = nn.Linear(width, width, bias=False)
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(self.first(x))


class Task:
    tokens_per_sample = 0

    def __init__(self, width):
        self.width = width

    def build(self):
        return Tied(self.width)

    def __len__(self):
        return 8

    def batch(self, indices):
        return torch.ones(len(indices), self.width)

    def loss(self, model, batch):
        return model(batch).square().mean()

    @torch.no_grad()
    def validate(self, model):
        print("words of the job")
        assert not model.training
        if bool((model.first.weight == 7).all()):
            raise KeyError("a mistake of the job")
        return {"loss": float(self.loss(model, self.batch(range(4)))), "first": float(model.first.weight[0, 0])}

    def sample(self, model):
        return None


def make(plan, *, width: int = 3):
    return Task(width)
"""
NAME = 0
"""Each test's job is a module of its own name."""


class Square(nn.Module):
    """What the job's model holds, tied as there."""

    def __init__(self, value: float, width: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(width, width, bias=False)
        self.last = nn.Linear(width, width, bias=False)
        self.last.weight = self.first.weight
        nn.init.constant_(self.first.weight, value)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run of a job, without weights."""
    global NAME
    NAME += 1
    job, folder = tmp_path / f"job_of_evaluation_{NAME}.py", tmp_path / "run"
    job.write_text(JOB)
    folder.mkdir()
    plan = Plan(settings={"width": 3})
    plan = replace(plan, job=replace(plan.job, target=f"{job}:make"), place=replace(plan.place, device="cpu"))
    (folder / "plan.toml").write_text(dumps(plan))
    return folder


def test_the_exported_weights_are_looked_at(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(Square(0.5), run)
    found = evaluate(run, None)
    assert found.figures == {"val_loss": pytest.approx(1.5**4), "val_first": 0.5}
    assert capsys.readouterr().out == "", "what a job prints is no part of the answer"
    assert main(["evaluate", str(run), "--json", "--device", "cpu"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["val_loss"], said["metrics"]) == (pytest.approx(1.5**4), {"first": 0.5})
    assert said["weights"] == str(run / "model.safetensors")


def test_of_a_run_that_was_stopped_the_last_checkpoint_is(run: Path) -> None:
    checkpoints = Checkpoints(run, keep=2)
    for step in (3, 5):
        checkpoints.save(Shared({"first.weight": torch.full((3, 3), step / 10)}, {}, "sgd", step, {"0": step}, at=step))
        checkpoints.settle()
    found = evaluate(run, None)
    assert found.figures["val_first"] == pytest.approx(0.5)
    assert found.weights.name == "step-00000005"
    next((found.weights / "tensors").glob("*.distcp")).write_bytes(b"nonsense")
    with pytest.raises(UsageError, match="step-00000005 is damaged"):
        evaluate(run, None)


def test_weights_that_are_damaged_or_of_another_model(run: Path) -> None:
    with pytest.raises(UsageError, match="neither model"):
        evaluate(run, None)
    export(Square(0.5), run)
    weights = run / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(UsageError, match="damaged"):
        evaluate(run, None)
    export(Square(0.5, width=4), run)
    with pytest.raises(UsageError, match="another model"):
        evaluate(run, None)
    export(nn.Identity(), run)
    with pytest.raises(UsageError, match="another model"):
        evaluate(run, None)


def test_what_is_no_run_of_a_job_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not the folder of a run"):
        evaluate(tmp_path / "nowhere", None)
    assert not (tmp_path / "nowhere").exists(), "it makes nothing"
    script = tmp_path / "of_a_script"
    script.mkdir()
    (script / "plan.toml").write_text(dumps_tables({"job": {"target": "train.py"}}))
    with pytest.raises(UsageError) as refused:
        evaluate(script, None)
    assert "trainer.validate" in refused.value.line()
    (script / "plan.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot be read"):
        evaluate(script, None)


def test_a_job_that_is_gone_or_fails(run: Path, tmp_path: Path) -> None:
    export(Square(7.0), run)
    with pytest.raises(RunFailed, match="KeyError: 'a mistake of the job'"):
        evaluate(run, None)
    next(tmp_path.glob("job_*.py")).unlink()
    with pytest.raises(UsageError, match="that file is gone"):
        evaluate(run, None)
