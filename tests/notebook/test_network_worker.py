"""`roadtrain join` from a script."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from live_fleet import LiveFleet, until

import roadtrain as rt

SCRIPT = """
import sys

import roadtrain as rt

open("ran", "a").write("once\\n")
rt.NetworkWorker(sys.argv[1], name="from-python").connect_and_train()
"""


def test_a_ticket_that_is_none_is_refused_at_once():
    with pytest.raises(rt.UsageError):
        rt.NetworkWorker("nonsense")


def test_a_script_lends_its_machine_and_its_workers_do_not_run_it_again(tmp_path: Path):
    fleet = LiveFleet(tmp_path)
    (tmp_path / "lend.py").write_text(SCRIPT)
    worker = subprocess.Popen([sys.executable, "lend.py", fleet.ticket], cwd=tmp_path, stdout=subprocess.PIPE)
    try:
        until(lambda: fleet.status()["machines"], "machine")
        done = fleet.ask("run", "xor", "--steps", "3", "--on", fleet.ticket, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["status"] == "finished"
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0
        assert (tmp_path / "ran").read_text() == "once\n"
    finally:
        worker.kill()
        worker.communicate()
        fleet.close()
