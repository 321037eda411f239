"""The `roadtrain` command as a person runs it: a process of its own, looked at from outside through its run folder."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor

ROADTRAIN = Path(sys.executable).with_name("roadtrain")
T = TypeVar("T")


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code and its words."""

    code: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict[str, Any]:
        """What --json printed."""
        return json.loads(self.stdout)


class Live:
    """A process that runs, and the run folder that it writes. It has a session of its own, so that `end` leaves nothing."""

    def __init__(self, command: list[str], out: Path, environment: Mapping[str, str]) -> None:
        self.out = out
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(environment),
            cwd=out.parent,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests may run where it is ignored
        )

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The whole lines of a .jsonl file of the run folder."""
        try:
            text = (self.out / name).read_text()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Events of this name so far."""
        return [event for event in self.lines("events.jsonl") if event["event"] == name]

    def step_of(self, worker: str) -> int:
        """The last step that a worker has logged."""
        return max((m["step"] for m in self.lines("metrics.jsonl") if m["worker"] == worker), default=0)

    def pid(self, worker: str) -> int:
        """The process of a worker."""
        return next(e["pid"] for e in self.events("joined") if e["worker"] == worker)

    def wait_for(self, condition: Callable[[], T], what: str, seconds: float = 60.0) -> T:
        """Until `condition` holds; its value. Fails when the process ends first, or after a long time."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            ended = self.process.poll()
            assert ended is None or condition(), f"exit {ended} before {what}: {self.process.communicate()}"
            assert time.monotonic() < end, f"no {what} within {seconds} s; {self.lines('events.jsonl')}"
            time.sleep(0.03)
        return value

    def wait_for_step(self, step: int, worker: str = "w0") -> None:
        """Until a worker has logged `step`."""
        self.wait_for(lambda: self.step_of(worker) >= step, f"step {step} of {worker}")

    def signal(self, number: int, worker: str | None = None) -> int:
        """Send a signal to a worker, or to the driver. Returns the process."""
        pid = self.process.pid if worker is None else self.pid(worker)
        os.kill(pid, number)
        return pid

    def ended(self, seconds: float = 120.0) -> Ended:
        """Wait for the end."""
        stdout, stderr = self.process.communicate(timeout=seconds)
        return Ended(self.process.returncode, stdout, stderr)

    def end(self) -> None:
        """Kill what is left of the session."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.process.communicate()


def is_gone(pid: int) -> bool:
    """Whether a process has ended (and perhaps waits for its parent)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without what a launcher or a person may have set for roadtrain."""
    launcher = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK")
    others = ("ROADTRAIN_", "SLURM_", "OMPI_", "PMI_")
    kept = {k: v for k, v in os.environ.items() if k not in launcher and not k.startswith(others)}
    return {**kept, **more}


def weights(folder: Path) -> dict[str, Tensor]:
    """The trained model of a run folder."""
    return load_file(folder / "model.safetensors")


def distance(one: Path, other: Path) -> float:
    """The largest relative distance between the tensors of two trained models."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(a[name].dtype == b[name].dtype for name in a)
    return max(float(torch.linalg.vector_norm(a[n] - b[n]) / torch.linalg.vector_norm(b[n])) for n in a)


def last_checkpoint(folder: Path) -> dict[str, Any]:
    """What the newest checkpoint says of itself."""
    return json.loads((max((folder / "checkpoint").glob("step-*")) / "run.json").read_text())


Start = Callable[..., Live]
Train = Callable[..., tuple[dict[str, Any], Path]]
