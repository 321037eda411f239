"""A fleet of real processes on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
COMMAND = [sys.executable, "-m", "roadtrain"]
PATIENCE_S = 60.0


def until(look: Callable[[], T], what: str, seconds: float = PATIENCE_S) -> T:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError(f"no {what} within {seconds:.0f} s")


class Command:
    """One command of ours; what it says goes to files."""

    def __init__(self, folder: Path, *words: str, name: str, command: Sequence[str] = COMMAND) -> None:
        self.out, self.err = folder / f"{name}.out", folder / f"{name}.err"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(folder / "state-home")}
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.popen = subprocess.Popen(
                [*command, *words], cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment
            )

    def first(self) -> dict[str, Any]:
        """The first line that it says, as JSON."""
        line = until(lambda: self.out.read_text().partition("\n")[0] or self.popen.poll() is not None, "first line")
        assert isinstance(line, str), self.err.read_text()
        return json.loads(line)

    def end(self, how: int = signal.SIGTERM) -> int:
        if self.popen.poll() is None:
            self.popen.send_signal(how)
        return self.popen.wait(PATIENCE_S)


class LiveFleet:
    """A coordinator, and machines that join it. Both are ended with it."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.folder, self.flags = folder, flags
        self.commands: list[Command] = []
        self.machines: list[Command] = []
        self.port = "0"
        self.serve()

    def command(self, *words: str, name: str) -> Command:
        made = Command(self.folder, *words, name=f"{name}{len(self.commands)}")
        self.commands.append(made)
        return made

    def serve(self) -> None:
        self.coordinator = self.command(
            "coordinator",
            *("--listen", f"127.0.0.1:{self.port}", "--state", "state", "--json"),
            *self.flags,
            name="coordinator",
        )
        said = self.coordinator.first()
        self.digits = said.get("digits", "")
        self.ticket, self.port = said["ticket"], said["url"].rpartition(":")[2]

    def join(self, *words: str, ticket: str = "") -> Command:
        made = self.command("join", ticket or self.ticket, *words, "--json", name="join")
        made.first()
        self.machines.append(made)
        return made

    def start(self, *words: str, out: str) -> Command:
        return self.command("run", *words, "--on", self.ticket, "--out", out, "--json", name="run")

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*COMMAND, *words], cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE_S)

    def status(self) -> dict[str, Any]:
        return json.loads(self.ask("status", "--on", self.ticket, "--json").stdout)

    def close(self) -> None:
        for command in reversed(self.commands):
            if command.popen.poll() is None:
                command.popen.send_signal(signal.SIGCONT)
                command.popen.terminate()
        for command in self.commands:
            try:
                command.popen.wait(20)
            except subprocess.TimeoutExpired:
                command.popen.kill()
                command.popen.wait()
