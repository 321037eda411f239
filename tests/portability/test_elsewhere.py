"""What only Linux has is not needed: tests of other folders, and commands, in a Python that has none of it; and Windows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import roadtrain
from roadtrain.__main__ import command
from roadtrain.errors import UsageError

ROOT = Path(__file__).parents[2]
HIDING = Path(__file__).parent / "elsewhere"
ROADTRAIN = str(Path(sys.executable).with_name("roadtrain"))
FEW = (
    "launch/test_run_request.py",
    "orchestrate/test_checkup.py",
    "session/test_device.py",
    "trainer/test_group_sockets.py",
    "wire/test_congestion.py",
)
MORE = ("session", "fleet", "codec", "sync")


def python(*words: str, folder: Path = ROOT, seconds: float = 100) -> str:
    """What a program says where nothing is as on Linux."""
    hidden = os.pathsep.join([str(HIDING), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": hidden}
    line = [sys.executable, *words] if words[0] == "-m" else list(words)
    done = subprocess.run(
        line, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def passed(*places: str) -> str:
    paths = [str(ROOT / "tests" / place) for place in places]
    return python("-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not long", *paths, seconds=200)


def test_few_tests_pass_without_what_only_linux_has():
    said = passed(*FEW)
    assert "passed" in said
    assert "skipped" in said  # those of what is hidden: it is


@pytest.mark.long
@pytest.mark.parametrize("place", MORE)
def test_more_tests_pass_too(place: str):
    assert "passed" in passed(place)


@pytest.mark.long
@pytest.mark.parametrize(
    "words",
    [
        ["digits", "--workers", "2", "--feeders", "1", "--steps", "20"],
        ["xor", "--workers", "2", "--steps", "20", "--sync", "ssgd:allreduce"],
        ["--workers", "2", str(ROOT / "examples" / "own_loop.py")],
    ],
)
def test_workers_start_without_a_fork_server(words: list[str], tmp_path: Path):
    report = json.loads(python(ROADTRAIN, "run", "--json", "--out", "run", *words, folder=tmp_path))
    assert report["status"] == "finished"
    assert report["events"] == {"joined": 2, "lost": 0, "handoffs": 0}


def test_windows_is_told_of_wsl2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "platform", "win32")
    assert command() == UsageError.exit_code
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "error: roadtrain does not run on Windows itself"
    assert "WSL2" in said[1]
    with pytest.raises(UsageError, match="Windows"):
        _ = roadtrain.Trainer
    assert roadtrain.UsageError is UsageError
