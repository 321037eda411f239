"""`roadtrain verify`."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from roadtrain.cli.main import main
from roadtrain.errors import RunFailed


def test_it_shows_what_is_here_and_trains(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify"]) == 0
    shown = capsys.readouterr().out
    assert platform.python_version() in shown
    assert torch.__version__ in shown
    assert "two processes, 200 steps" in shown


def test_a_machine_that_cannot_train_fails_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "a line of torch\nerror: cannot start a worker process: no memory\nhint: close something\n"
    done = subprocess.CompletedProcess([sys.executable], 1, "", said)
    monkeypatch.setattr(subprocess, "run", lambda *words, **more: done)
    assert main(["verify"]) == RunFailed.exit_code
    assert "two processes cannot train together: cannot start a worker process: no memory" in capsys.readouterr().err
