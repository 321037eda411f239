"""Every example runs, and does what the pages say of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from live_fleet import LiveFleet
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


@pytest.mark.long
def test_own_loop_by_plain_python(tmp_path: Path):
    """Nothing of roadtrain's is left behind."""
    command = [sys.executable, str(EXAMPLES / "own_loop.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=True)
    assert number(r"worker 0 of 1: ([\d.]+)%", done.stdout) > 80
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_hugging_face(tmp_path: Path):
    """One checkpoint, two processes; and a trainer that others join."""
    for name, pattern in (
        ("hugging_face.py", r"process 0 of 2: (\d+) steps"),
        ("trainer_that_is_there.py", r"(\d+) steps, loss"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        command = [sys.executable, str(EXAMPLES / name)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        assert number(pattern, done.stdout) == 20
        assert [path.name for path in (folder / "out").iterdir()] == ["checkpoint-20"]


@pytest.mark.long
def test_driver(tmp_path: Path):
    command = [sys.executable, str(EXAMPLES / "driver.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert number(r"([\d.]+)%", done.stdout) > 85
    assert number(r"w1 +(\d+) MiB", done.stdout) > 10


@pytest.mark.long
def test_ray_train(tmp_path: Path):
    pytest.importorskip("ray")
    said, report = run(tmp_path, "--on", "ray:local", str(EXAMPLES / "ray_train.py"))
    assert "worker 0 of 2 has trained" in said
    assert report["train_loss"] < 1


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


@pytest.mark.long
def test_lora(tmp_path: Path):
    """The base stays at home: what is sent is a small part of it."""
    said, _ = run(tmp_path, str(EXAMPLES / "lora.py"))
    base = number(r"the base has ([\d,]+)", said)
    assert base > 4e6
    assert 0 < number(r"sent ([\d,]+)", said) < base / 20


@pytest.mark.long
def test_resnet(tmp_path: Path):
    said, report = run(tmp_path, str(EXAMPLES / "resnet.py"))
    assert number(r"([\d.]+)% of the held-out", said) > 60
    assert report["val_loss"] < 1.5


@pytest.mark.long
def test_transformer(tmp_path: Path):
    said, report = run(tmp_path, str(EXAMPLES / "transformer.py"))
    assert number(r"held-out loss ([\d.]+)", said) < 3.8
    assert (len(report["workers"]), report["plan"]["sync"]["strategy"]) == (2, "diloco:10")


def test_pictures_are_fed_trained_on_validated_and_told_apart(tmp_path: Path):
    """`pictures_feed.py` on one side; `pictures_train.py` and `pictures_predict.py` on the other, which has no picture."""
    fleet = LiveFleet(tmp_path)
    words = [sys.executable, str(EXAMPLES / "pictures_feed.py"), fleet.ticket]
    feeding = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        said: list[str] = []
        (there := tmp_path / "there").mkdir()
        for script in ("pictures_train.py", "pictures_predict.py"):
            words = [sys.executable, str(EXAMPLES / script), fleet.ticket]
            done = subprocess.run(words, cwd=there, capture_output=True, text=True, timeout=200, check=False)
            assert done.returncode == 0, done.stderr
            said.append(done.stdout)
        assert number(r"([\d.]+)%", said[0]) > 90
        assert number(r"([\d.]+)%", said[1]) == number(r"([\d.]+)%", said[0])
        labels = (there / "labels.txt").read_text().split()
        right = [file.stem[-1] for file in sorted((tmp_path / "pictures").iterdir())[:120]]
        share = sum(a == b for a, b in zip(labels, right, strict=True)) / 120
        assert share == pytest.approx(number(r"([\d.]+)%", said[1]) / 100, abs=0.001)
        feeding.terminate()
        assert feeding.wait(30) == 0
    finally:
        feeding.kill()
        feeding.communicate()
        fleet.close()
