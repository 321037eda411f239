"""Validation in real runs: a worker that dies, one that validates by itself, and a run's model that is looked at again."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from live import Start, Train

from roadtrain.cli.main import main
from roadtrain.trainer.validation import LOOKED_AT

SCRIPT = """
import json
import os
import sys
import time

import torch
from torch import nn
from torch.nn import functional

import roadtrain as rt

torch.set_num_threads(1)
torch.manual_seed(6)
model = nn.Linear(10, 3)
x = torch.randn(1009, 10)
held_out = torch.utils.data.TensorDataset(x, (x[:, :3] + 0.8 * torch.randn(1009, 3)).argmax(1))
seen = [0]


def loss(model, batch):
    logits = model(batch[0])
    if not torch.is_grad_enabled():
        seen[0] += len(batch[0])
        time.sleep(0.06)
        with open(os.path.join(sys.argv[1], "looked"), "a") as file:
            file.write(f"{{os.getpid()}}\\n")
    right = (logits.argmax(1) == batch[1]).float()
    return functional.cross_entropy(logits, batch[1]), {{"accuracy": right.mean()}}


def exact(model):
    with torch.no_grad():
        logits = model(x).double()
    return float(functional.cross_entropy(logits, held_out.tensors[1]))


class Written(rt.Callback):
    def on_validate_end(self, trainer, figures):
        said = [figures["loss"], exact(trainer.model), seen[0]]
        with open(os.path.join(sys.argv[1], os.environ["RANK"] + ".jsonl"), "a") as file:
            file.write(json.dumps(said) + "\\n")

    def on_step(self, trainer, step, loss):
        {on_step}


trainer = rt.Trainer(
    model, loss, torch.optim.SGD(model.parameters(), lr=0.1), batch=32, log_every=1, callbacks=[Written()]
)
trainer.fit(torch.utils.data.TensorDataset(x[:192], held_out.tensors[1][:192]), epochs=2, validation=held_out)
"""
ALONE = """if step == 2 and os.environ["RANK"] == "0":
            self.on_validate_end(trainer, trainer.validate(held_out))"""


def script(folder: Path, on_step: str = "pass") -> tuple[Path, Path]:
    """The script, and the folder that it writes into."""
    made, said = folder / "validates.py", folder / "said"
    made.write_text(SCRIPT.format(on_step=on_step))
    said.mkdir()
    return made, said


def figures(said: Path, rank: int) -> list[tuple[float, float, int]]:
    """What a worker found, what it is, and on how many samples it has looked so far."""
    return [tuple(json.loads(line)) for line in (said / f"{rank}.jsonl").read_text().splitlines()]


def test_a_worker_is_killed_while_all_validate(start: Start, tmp_path: Path) -> None:
    made, said = script(tmp_path)
    live = start("--workers", 3, made, said)

    def looked() -> list[str]:
        return (said / "looked").read_text().split() if (said / "looked").exists() else []

    live.wait_for(lambda: len(live.events("joined")) == 3, "three workers")
    live.wait_for(lambda: looked().count(str(live.pid("w1"))) >= 2, "a look of w1", 60)
    live.signal(signal.SIGKILL, "w1")
    ended = live.ended()
    assert ended.code == 0, ended.stderr
    first, second = figures(said, 0), figures(said, 2)
    assert [each[0] for each in first] == [each[0] for each in second], "all have the same"
    for got, want, _ in first:
        assert got == pytest.approx(want, rel=1e-6)


def test_one_worker_validates_by_itself_amid_an_epoch(start: Start, tmp_path: Path) -> None:
    """The others wait in the next step, and for nothing else."""
    made, said = script(tmp_path, ALONE)
    ended = start("--workers", 2, made, said).ended()
    assert ended.code == 0, ended.stderr
    alone, *together = figures(said, 0)
    assert alone[0] == pytest.approx(alone[1], rel=1e-6)
    assert alone[2] == 1009 + LOOKED_AT + 1
    assert [each[0] for each in together] == [each[0] for each in figures(said, 1)]
    looked = [each[2] for each in figures(said, 1)]
    assert looked[-1] < 1009 * len(looked), "each looks at a part"


def test_the_model_of_a_run_is_looked_at_again(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    report, folder = train("digits", "--workers", 2, "--steps", 6)
    capsys.readouterr()
    assert main(["evaluate", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["val_loss"] == pytest.approx(report["val_loss"], rel=1e-6)
    assert found["metrics"] == pytest.approx(report["metrics"], rel=1e-6)
