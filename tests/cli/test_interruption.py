"""Ctrl-C before a run has begun."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from roadtrain.cli.interruption import stopping_at_once

JOB = """
import time, weakref
from pathlib import Path

class Lock:
    pass

def freed(_):
    Path("importing").touch()
    time.sleep(60)

lock = Lock()
seen = weakref.ref(lock, freed)
del lock
def make(plan): ...
"""


def test_ctrl_c_in_a_callback_amid_an_import_ends_it_with_one_line(tmp_path: Path) -> None:
    """Python itself would print an exception that is raised there, and go on."""
    (tmp_path / "job.py").write_text(JOB)
    process = subprocess.Popen(
        [sys.executable, "-m", "roadtrain", "run", "job.py:make", "--workers", "1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (tmp_path / "importing").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "error: stopped before the run began\n")
    assert process.returncode == 130


@pytest.mark.parametrize("found", [signal.SIG_IGN, signal.default_int_handler])
def test_who_ignores_ctrl_c_still_does_and_what_there_was_comes_back(found: signal._HANDLER) -> None:
    before = signal.signal(signal.SIGINT, found)
    try:
        with stopping_at_once():
            assert (signal.getsignal(signal.SIGINT) is found) == (found is signal.SIG_IGN)
        assert signal.getsignal(signal.SIGINT) is found
    finally:
        signal.signal(signal.SIGINT, before)
