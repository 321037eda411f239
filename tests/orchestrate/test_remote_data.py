"""`rt.feed` on one machine, `rt.remote_data` on another: real processes, and a coordinator between them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from live_fleet import LiveFleet, until

import roadtrain as rt

FEED = """
import os
import sys

import torch

import roadtrain as rt


class Numbers(torch.utils.data.Dataset):
    def __init__(self, size, log=None):
        self.size, self.log = size, log

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{os.getpid()} {index}\\n")
        return torch.full((4,), index / self.size) + torch.rand(4) / 100, torch.tensor(index / self.size)


def data(log=None):
    return {"train": Numbers(160, log), "held-out": Numbers(40), "inputs": torch.arange(60.0).view(15, 4)}


if __name__ == "__main__":
    found = data("log") if len(sys.argv) < 3 else Numbers(int(sys.argv[2]))
    rt.feed(found, on=sys.argv[1], name="train", processes=2)
"""
TRAIN = """
import json
import os
import sys
import time

import torch
from torch import nn

import roadtrain as rt

if sys.argv[1] == "here":
    from feed import data

    train, held_out, inputs = data().values()
else:
    train, held_out, inputs = (rt.remote_data(sys.argv[1], name) for name in ("train", "held-out", "inputs"))


steps = 0


def loss(model, batch):
    global steps
    steps += torch.is_grad_enabled()
    while steps == 20 and sys.argv[2:] == ["waits"] and not os.path.exists("go"):
        time.sleep(0.05)
    return ((model(batch[0]).squeeze(1) - batch[1]) ** 2).mean()


torch.manual_seed(0)
model = nn.Linear(4, 1)
trainer = rt.Trainer(model, loss, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), batch=8)
found = trainer.fit(train, epochs=2, validation=held_out)
rows = torch.cat(list(trainer.predict(inputs, batch=4)))
print(json.dumps([found, trainer.validate(held_out), rows.tolist(), model.weight.tolist()]))
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[LiveFleet]:
    for name, text in {"feed.py": FEED, "train.py": TRAIN}.items():
        (tmp_path / name).write_text(text)
    made = LiveFleet(tmp_path)
    yield made
    made.close()


def start(folder: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> Any:
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    return json.loads(out)


def fed(folder: Path) -> list[int]:
    lines = (folder / "log").read_text().splitlines() if (folder / "log").exists() else []
    return [int(line.split()[0]) for line in lines]


def test_two_lines_on_each_side_train_the_same_bits_also_when_feeders_die(fleet: LiveFleet, tmp_path: Path) -> None:
    """A feeder process is killed, then the whole machine, and another one takes over; the coordinator is killed and started again
    meanwhile. Data that differ are refused."""
    here = start(tmp_path, "train.py", "here")
    (tmp_path / "word").write_text(fleet.ticket)
    feeders = [start(tmp_path, "feed.py", "word")]
    there = start(tmp_path, "train.py", fleet.ticket, "waits")
    try:
        until(lambda: len(fed(tmp_path)) > 60, "feeding")
        os.kill(fed(tmp_path)[-1], signal.SIGKILL)
        other = start(tmp_path, "feed.py", fleet.ticket, "159")
        _, words = other.communicate(timeout=60)
        assert other.returncode == 1
        assert "cannot be fed from here: 159 samples here, 160 samples there" in words
        fleet.coordinator.popen.kill()
        fleet.serve()
        before = set(fed(tmp_path))
        feeders.append(start(tmp_path, "feed.py", fleet.ticket))
        until(lambda: feeders[1].stderr is not None and "inputs" in feeders[1].stderr.readline(), "other feeder")
        feeders[0].kill()
        (tmp_path / "go").touch()
        assert said(there) == said(here)
        assert len(set(fed(tmp_path)) - before) >= 2, "itself and a process of its"
        feeders[1].send_signal(signal.SIGTERM)
        assert feeders[1].wait(30) == 0
    finally:
        for process in (here, there, *feeders):
            process.kill()
            process.communicate()


@pytest.mark.long
def test_workers_of_a_run_take_them_too(fleet: LiveFleet, tmp_path: Path) -> None:
    feeding = start(tmp_path, "feed.py", fleet.ticket)
    try:
        report: list[float] = []
        for where in ("here", fleet.ticket):
            done = fleet.ask("run", "--workers", "2", "--sync", "ssgd", "--json", "train.py", where)
            assert done.returncode == 0, done.stderr
            found = json.loads(done.stdout)
            assert found["samples"] == 320
            report.append(found["val_loss"])
        assert report[0] == report[1]
    finally:
        feeding.terminate()
        feeding.communicate(timeout=30)


def test_a_ticket_has_to_serve(fleet: LiveFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def ticket(role: str) -> str:
        done = fleet.ask("token", "create", "--on", fleet.ticket, "--role", role, "--json")
        return json.loads(done.stdout)["ticket"]

    monkeypatch.setenv("ROADTRAIN_TICKET", ticket("feeder"))
    with pytest.raises(rt.UsageError, match="the ticket is a feeder's: it does not serve to take data"):
        rt.remote_data().offer()
    with pytest.raises(rt.UsageError, match="the ticket is a worker's: it does not serve to feed data"):
        rt.feed(torch.ones(3), on=ticket("worker"))
    monkeypatch.delenv("ROADTRAIN_TICKET")
    with pytest.raises(rt.UsageError, match="there is no ticket"):
        rt.feed(torch.ones(3))
    with pytest.raises(rt.UsageError, match="cannot be named 'a b'"):
        rt.remote_data(fleet.ticket, "a b")
