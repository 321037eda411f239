"""`roadtrain run script.py` from start to end: processes, exit codes, words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

LOOP = """
import os, sys
import torch
from torch.nn import functional as F
import roadtrain as rt

class Points(torch.utils.data.Dataset):
    def __len__(self):
        return 22
    def __getitem__(self, number):
        x = torch.full((3,), number / 22)
        return x, x[:1] ** 2

def main(workers=0, hook=lambda step: None, epochs=2):
    torch.manual_seed(int(os.environ.get("RANK", 0)))
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sync = rt.attach(model, optimizer, sync="ssgd")
    for step, (x, y) in enumerate(sync.loader(Points(), 4, epochs, num_workers=workers)):
        hook(step)
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        sync.log(loss=loss)
    return sync
"""
SCRIPTS = {
    "plain.py": """
import sys, os
from loop import main
sync = main()
print("hello from", os.environ["RANK"], "of", os.environ["WORLD_SIZE"], sys.argv[1:], flush=True)
""",
    "loads.py": """
import torch
from loop import Points, main
seen = sorted(float(x[0, 0]) for x, _ in torch.utils.data.DataLoader(Points(), num_workers=2))
assert len(seen) == 22
sync = main(workers=2)
assert sync.report()["steps"] == 6, sync.report()
""",
    "raises.py": """
import os
from loop import main
def fetch_a_bone(step):
    if step == 2 and os.environ["RANK"] == "1":
        raise LookupError("the cupboard is bare")
main(hook=fetch_a_bone)
""",
    "exits.py": """
import sys
from loop import main
main()
sys.exit(3)
""",
    "idle.py": "import torch\n",
    "mistake.py": """
import torch, roadtrain as rt
model = torch.nn.Linear(3, 1)
rt.attach(model, torch.optim.SGD(torch.nn.Linear(3, 1).parameters(), lr=0.1))
""",
    "other.py": """
import os, torch, roadtrain as rt
model = torch.nn.Linear(3 + int(os.environ["RANK"]), 1)
rt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
""",
    "broken.py": "def half(:\n",
}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str
    out: Path

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.out / "report.json").read_text())

    @property
    def text(self) -> str:
        return self.stdout + self.stderr

    def errors(self) -> list[str]:
        return [line for line in self.stderr.splitlines() if line.startswith("error:")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "loop.py").write_text(LOOP)
    for name, text in SCRIPTS.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def run(folder: Path, script: str, *words: str, workers: int = 2, flags: tuple[str, ...] = ()) -> Ended:
    out = folder / f"out-{script}"
    command = [sys.executable, "-m", "roadtrain", "run", "--workers", str(workers), "--out", str(out), *flags]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ROADTRAIN_") and k != "WORLD_SIZE"}
    done = subprocess.run(
        [*command, script, *words],
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr, out)


def test_a_script_runs_in_every_worker(folder: Path) -> None:
    ended = run(folder, "plain.py", "--workers", "9")
    assert ended.code == 0, ended.text
    assert ended.stdout.count("hello from 0 of 2 ['--workers', '9']") == 1, "all after it is the script's"
    assert "hello from 1" not in ended.text
    assert "hello from 1 of 2" in (ended.out / "logs" / "w1.log").read_text()
    assert ended.report["status"] == "finished"
    assert ended.report["steps"] == 12
    assert (ended.out / "model.safetensors").is_file()


def test_under_json_a_scripts_words_leave_the_report_alone(folder: Path) -> None:
    ended = run(folder, "plain.py", flags=("--json",))
    assert ended.code == 0, ended.text
    assert json.loads(ended.stdout)["status"] == "finished"
    assert ended.stderr.count("hello from 0 of 2") == 1


def test_loading_processes_of_its_own_and_of_the_loader(folder: Path) -> None:
    ended = run(folder, "loads.py")
    assert ended.code == 0, ended.text
    assert ended.report["steps"] == 12


def test_an_exception_ends_the_run_with_its_trace_once(folder: Path) -> None:
    ended = run(folder, "raises.py")
    assert ended.code == 1
    assert ended.text.count("Traceback (most recent call last)") == 1
    assert ended.text.count("in fetch_a_bone") == 1
    assert "LookupError: the cupboard is bare" in ended.text
    assert "roadtrain/fleet" not in ended.text, "the script's own frames alone"
    (line,) = ended.errors()
    assert "w1" in line


def test_an_exit_code_of_a_script_is_a_failure(folder: Path) -> None:
    ended = run(folder, "exits.py")
    assert ended.code == 1, ended.text
    (line,) = ended.errors()
    assert "exit code 3" in line
    assert "Traceback" not in ended.text


@pytest.mark.parametrize(
    ("script", "said"),
    [("idle.py", "without training with roadtrain"), ("mistake.py", "none of the model's parameters")],
)
def test_a_mistake_is_one_line(folder: Path, script: str, said: str) -> None:
    ended = run(folder, script)
    assert ended.code == 2, ended.text
    (line,) = ended.errors()
    assert said in line
    assert "Traceback" not in ended.text


def test_workers_that_do_not_fit_are_one_line(folder: Path) -> None:
    ended = run(folder, "other.py")
    assert ended.code == 1, ended.text
    (line,) = ended.errors()
    assert "another model" in line
    assert "Traceback" not in ended.text


def test_a_script_that_is_no_python_shows_where(folder: Path) -> None:
    ended = run(folder, "broken.py", workers=1)
    assert ended.code == 2, ended.text
    (line,) = ended.errors()
    assert "broken.py is not Python" in line
