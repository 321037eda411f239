"""Every example runs, and does what the pages say of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from safetensors import safe_open

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(folder: Path, *words: str) -> tuple[str, dict[str, Any]]:
    """`roadtrain run` with two workers: what it prints, and its report."""
    command = [str(Path(sys.executable).with_name("roadtrain")), "run", "--workers", "2", "--out", str(folder / "run")]
    done = subprocess.run([*command, *words], cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr, json.loads((folder / "run" / "report.json").read_text())


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found is not None, text
    return float(found[1].replace(",", ""))


def test_own_loop(tmp_path: Path):
    said, report = run(tmp_path, str(EXAMPLES / "own_loop.py"))
    assert number(r"worker 0 of 2: ([\d.]+)%", said) > 80
    assert report["plan"]["sync"]["strategy"] == "diloco:10"
    assert report["train_loss"] < 1
    assert "worker 1 of 2" in (tmp_path / "run" / "logs" / "w1.log").read_text()
    with safe_open(str(tmp_path / "run" / "model.safetensors"), "pt") as file:
        assert set(file.keys()) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_own_loop_by_plain_python(tmp_path: Path):
    """Nothing of roadtrain's is left behind."""
    command = [sys.executable, str(EXAMPLES / "own_loop.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=True)
    assert number(r"worker 0 of 1: ([\d.]+)%", done.stdout) > 80
    assert not list(tmp_path.iterdir())


def test_driver(tmp_path: Path):
    command = [sys.executable, str(EXAMPLES / "driver.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert number(r"([\d.]+)%", done.stdout) > 85
    assert number(r"w1 +(\d+) MiB", done.stdout) > 10


def test_own_trainer(tmp_path: Path):
    said, report = run(tmp_path, str(EXAMPLES / "own_trainer.py"))
    assert number(r"accuracy ([\d.]+)%", said) > 85
    assert number(r"rate ([\d.]+)", said) == 0  # the schedule came to its end
    assert abs(number(r"loss ([\d.]+)", said) - report["val_loss"]) < 0.001


def test_own_job(tmp_path: Path):
    words = ["--width", "32", "--sync", "diloco:10"]
    said, report = run(tmp_path, f"{EXAMPLES / 'own_job.py'}:make", *words)
    assert "sin(1.5)" in said
    assert report["val_loss"] < 0.1
    kept = tomllib.loads((tmp_path / "run" / "plan.toml").read_text())
    assert kept["settings"] == {"width": 32, "noise": 0.1}


def test_lora(tmp_path: Path):
    """The base stays at home: what is sent is a small part of it."""
    said, _ = run(tmp_path, str(EXAMPLES / "lora.py"))
    base = number(r"the base has ([\d,]+)", said)
    assert base > 4e6
    assert 0 < number(r"sent ([\d,]+)", said) < base / 20


def test_resnet(tmp_path: Path):
    said, report = run(tmp_path, str(EXAMPLES / "resnet.py"))
    assert number(r"([\d.]+)% of the held-out", said) > 60
    assert report["val_loss"] < 1.5
