"""What coming-from.md begins with runs, where those frameworks are installed: none of them is wanted for anything else."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from roadtrain.cli.main import main

BEFORE = Path(__file__).with_name("before")
PAGE = Path(__file__).parents[2] / "docs" / "coming-from.md"
RIGHT = re.compile(r"(\d+\.\d)% of the held-out digits are right")


def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.mark.long
@pytest.mark.skipif(find_spec("hivemind") is None, reason="hivemind is not installed")
def test_hivemind() -> None:
    done = subprocess.run(
        [sys.executable, BEFORE / "hivemind_loop.py"], capture_output=True, text=True, timeout=150, check=False
    )
    found = RIGHT.search(done.stdout)
    assert found is not None, done.stderr  # its own shutdown may fail after that
    assert float(found[1]) > 70


@pytest.mark.long
@pytest.mark.skipif(find_spec("torchft") is None, reason="torchft is not installed")
def test_torchft() -> None:
    place = f"127.0.0.1:{port()}"
    words = ["--min_replicas", "2", "--join_timeout_ms", "2000", "--bind", place]
    with subprocess.Popen([Path(sys.executable).with_name("torchft_lighthouse"), *words]) as lighthouse:
        started = []
        for group in ("0", "1"):
            environment = {**os.environ, "REPLICA_GROUP_ID": group, "TORCHFT_LIGHTHOUSE": f"http://{place}"}
            torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "1", "--master-port", str(port())]
            command = [sys.executable, *torchrun, BEFORE / "torchft_loop.py"]
            started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        try:
            said = [each.communicate(timeout=150)[0] for each in started]
        finally:
            lighthouse.kill()
    assert all(float(RIGHT.search(each)[1]) > 70 for each in said), said  # pyright: ignore[reportOptionalSubscript]


def test_every_flag_that_the_page_names_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        main(["run", "--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    commands = " ".join(re.findall(r"`[^`]*`", re.sub(r"```.*?```", "", PAGE.read_text(), flags=re.DOTALL)))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", commands))
    assert len(named) > 15
    assert named <= known | {"--no-listen", "--allow-code"}
