"""Both notebooks of a Colab fleet, in kernels of their own, one of which is killed; with a stand-in for Colab's module."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from live_fleet import until
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError

from roadtrain.errors import RunFailed, UsageError

EXAMPLES = Path(__file__).parents[2] / "examples"
STAND_IN = "import os\n\n\ndef get(name):\n    return open(os.environ['SECRET']).read()\n"
COORDINATOR, TOKEN, TRAINING, END = 1, 3, 5, 7
"""Cells of the notebook at home."""


class Notebook:
    """One of ours; each cell has 150 s."""

    def __init__(self, name: str, folder: Path) -> None:
        self._notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
        resources = {"metadata": {"path": folder}}
        self.client = NotebookClient(self._notebook, timeout=150, kernel_name="python3", resources=resources)

    def carry_out(self, number: int) -> str:
        """One cell, in the kernel that is there; what it says."""
        self.client.execute_cell(self._notebook.cells[number], number)
        return self.said(number)

    def said(self, number: int) -> str:
        return "".join(output.get("text", "") for output in self._notebook.cells[number].get("outputs", []))

    def aside(self) -> threading.Thread:
        """All of it, in a kernel of its own."""

        def run() -> None:
            with contextlib.suppress(DeadKernelError):
                self.client.execute()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def kill(self) -> None:
        """The kernel, with all processes of its group, as it is ended when a session is restarted."""
        assert self.client.km is not None
        assert isinstance(self.client.km.provisioner, LocalProvisioner)
        assert self.client.km.provisioner.pid is not None
        os.killpg(os.getpgid(self.client.km.provisioner.pid), signal.SIGKILL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "stand-in" / "google" / "colab").mkdir(parents=True)
    (tmp_path / "stand-in" / "google" / "colab" / "userdata.py").write_text(STAND_IN)
    with socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setenv("ADDRESS", f"127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setenv("SECRET", str(tmp_path / "secret"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "stand-in"), *sys.path]))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state-home"))
    monkeypatch.delenv("ROADTRAIN_TICKET", raising=False)
    return tmp_path


@pytest.fixture
def home(folder: Path) -> Iterator[Notebook]:
    notebook = Notebook("colab_home", folder)
    with notebook.client.setup_kernel():
        yield notebook


def machines(folder: Path) -> list[str]:
    command = [sys.executable, "-m", "roadtrain", "status", "--on", str(folder / "fleet" / "ticket"), "--json"]
    return [each["machine"] for each in json.loads(subprocess.check_output(command))["machines"]]


@pytest.mark.long
def test_a_runtime_is_lent_outlives_its_kernel_trains_and_leaves(folder: Path, home: Notebook) -> None:
    home.carry_out(COORDINATOR)
    (folder / "secret").write_text(home.carry_out(TOKEN))
    first = Notebook("colab", folder)
    thread = first.aside()
    joined = until(lambda: machines(folder), "machine")
    first.kill()
    thread.join(30)
    assert machines(folder) == joined
    second = Notebook("colab", folder)
    thread = second.aside()
    until(lambda: f"this machine is {joined[0]} already" in second.said(1), "word of the machine")
    assert "loss" in home.carry_out(TRAINING)
    home.carry_out(END)
    thread.join(30)
    assert not thread.is_alive()
    shown = second.said(1)
    assert "w0 begins" in shown
    assert "w0 has ended" in shown
    assert (folder / "secret").read_text().strip() not in first.said(1) + shown


def test_what_is_refused_is_one_line_of_an_exception(folder: Path) -> None:
    from roadtrain.orchestrate.ticket import Role, draw
    from roadtrain.plugins import colab

    nobody = draw(Role.WORKER, bytes(32), (os.environ["ADDRESS"],)).text()
    with pytest.raises(RunFailed, match="no coordinator answers"):
        colab.join(nobody, paid=True)


def test_two_cells_at_once_lend_the_machine_once(folder: Path) -> None:
    """The second comes before the first has joined."""
    from roadtrain.orchestrate.ticket import Role, draw
    from roadtrain.plugins.colab.joining import Agent

    nobody = draw(Role.WORKER, bytes(32), (os.environ["ADDRESS"],))
    first, second = Agent.in_folder(), Agent.in_folder()
    assert first.start(nobody, allow_code=False, name="", devices=0)
    assert not second.start(nobody, allow_code=False, name="", devices=0)
    second.check(nobody)
    with pytest.raises(UsageError, match="another fleet"):
        second.check(draw(Role.WORKER, bytes(31) + b"1", (os.environ["ADDRESS"],)))
    with contextlib.suppress(RunFailed):
        first.follow()
    assert second.start(nobody, allow_code=False, name="", devices=0), "it has ended"
    with contextlib.suppress(RunFailed):
        second.follow()
