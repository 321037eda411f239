"""A driver from Python: its workers come to what plain PyTorch comes to, and what goes wrong is said in one line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from live_fleet import LiveFleet, until
from torch import nn

import roadtrain as rt
from roadtrain.notebook.source_code import definitions

SCRIPT = Path(__file__).with_name("driving.py")


def drive(folder: Path, *names: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *names], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_workers_come_to_what_plain_pytorch_comes_to(tmp_path: Path):
    """One with an optimizer of two groups, and two whose last step has one batch alone; a second training goes on."""
    found = drive(tmp_path, "alone", "two")
    assert max(found["alone"]["far"] + found["two"]["far"]) < 1e-5, found
    assert (found["alone"]["samples"], found["two"]["samples"]) == (200, 100)
    assert found["alone"]["feeders"] == [200]


def test_other_strategies_train_and_what_the_loader_raises_is_raised(tmp_path: Path):
    found = drive(tmp_path, "diloco", "corrupt")
    assert found["diloco"]["after"] < 0.7 * found["diloco"]["before"]
    assert found["diloco"]["sync"] == "diloco:4"
    assert found["diloco"]["same"], "predictions are those of the model"
    assert found["corrupt"]["raised"] == "ValueError: picture 40 is corrupt"


@pytest.mark.parametrize("layout", ["tp", pytest.param("fsdp", marks=pytest.mark.long)])
def test_a_layout_comes_to_what_plain_pytorch_comes_to(layout: str, tmp_path: Path):
    """Batches of unequal sizes are refused, and leave the model as it was."""
    found = drive(tmp_path, layout)[layout]
    assert "drop_last" in found["refused"], found
    assert found["before"] == 0
    assert found["far"] < 1e-5


@pytest.mark.long
def test_a_fleet_trains_as_this_machine_does(tmp_path: Path):
    """Its machines have nothing of the script but what travels."""
    fleet = LiveFleet(tmp_path)
    try:
        for name in ("one", "other"):
            fleet.join("--allow-code", "--name", name)
        found = drive(tmp_path, "on", fleet.ticket)["on"]
        assert max(*found["plain"]["far"], found["tp"]["far"]) < 1e-5, found
    finally:
        fleet.close()


def test_a_script_that_trains_as_it_is_imported_is_told_so(tmp_path: Path):
    (tmp_path / "bare.py").write_text(
        "import torch\nimport roadtrain as rt\n\n"
        "class Net(torch.nn.Linear):\n    pass\n\n"
        "driver = rt.Orchestrator()\ndriver.register_model(Net(2, 2))\n"
        "driver.start_training([(torch.ones(3, 2), torch.ones(3, 2))])\n"
    )
    done = subprocess.run(
        [sys.executable, "bare.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert 'put what starts the training under if __name__ == "__main__"' in done.stderr


SLOW = """
import time

import torch

import roadtrain as rt


class Slow:
    def __len__(self):
        return 1000

    def __iter__(self):
        while True:
            time.sleep(0.2)
            yield torch.ones(3, 2), torch.ones(3, 2)


if __name__ == "__main__":
    driver = rt.Orchestrator(workers=2, out="run")
    driver.register_model(torch.nn.Linear(2, 2))
    driver.start_training(Slow())
"""


@pytest.mark.long
def test_workers_do_not_outlive_their_driver(tmp_path: Path):
    (tmp_path / "slow.py").write_text(SLOW)
    driver = subprocess.Popen([sys.executable, "slow.py"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    events = tmp_path / "run" / "events.jsonl"
    until(lambda: events.exists() and events.read_text().count('"joined"') == 2, "two workers")
    pids = [e["pid"] for e in map(json.loads, events.read_text().splitlines()) if e["event"] == "joined"]
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "end of the workers", 100)
    assert "no batch can come" in (tmp_path / "run" / "logs" / "w0.log").read_text()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch": 3}, "--batch changes nothing here"),
        ({"steps": 3}, "num_epochs"),
        ({"wrokers": 3}, "did you mean 'workers'"),
        ({"mode": "worker"}, "NetworkWorker"),
        ({"on": "nonsense"}, "ticket"),
    ],
)
def test_settings_that_nothing_goes_by_are_refused(settings: dict[str, Any], said: str):
    with pytest.raises(rt.UsageError) as refused:
        rt.Orchestrator(**settings)
    assert said in refused.value.line()


def test_what_cannot_be_registered_is_named():
    driver, model = rt.Orchestrator(on=None, lr=0.1), nn.Linear(2, 2)
    with pytest.raises(rt.UsageError, match="the loss is a lambda"):
        driver.register_model(model, loss=lambda model, batch: model(batch).mean())
    with pytest.raises(rt.UsageError, match="one is given"):
        driver.register_model(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(rt.UsageError, match="no model yet"):
        driver.start_training([])


def test_of_a_notebook_what_its_cells_define_travels():
    cells = [
        "",
        "%pip install this",
        "import math\nWIDTH = 3\ndata = load(WIDTH)",
        "from __future__ import annotations\nclass Net:\n    width = WIDTH\nprint(Net)",
        "@staticmethod\ndef area() -> Missing:\n    return math.pi * WIDTH",
        "WIDTH = 4",
    ]
    space: dict[str, Any] = {}
    exec(compile(definitions(cells), "cells", "exec"), space)
    assert (space["Net"].width, space["WIDTH"], "data" in space) == (3, 4, False)
    assert space["area"]() > 12
