"""The agent of a machine that a notebook lends: a process of its own, which outlives the kernel that has started it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from roadtrain.errors import RunFailed, UsageError
from roadtrain.launch.machine_token import private_folder
from roadtrain.orchestrate.agents_here import machine_of
from roadtrain.orchestrate.ticket import VARIABLE, Ticket
from roadtrain.plugins.colab.runtime import ticket_of, warning

LEAVE = "interrupt the cell to have it leave"
LOOK_S = 0.2
TAIL_BYTES = 2000
"""Of what the agent has said before, so much is shown again."""


def join(
    ticket: str | None = None,
    *,
    allow_code: bool = False,
    paid: bool | None = None,
    name: str = "",
    devices: int = 0,
) -> None:
    """Lend this machine to the fleet of `ticket`, and show what it does, until it has left. Blocks.

    `ticket`: a worker's, or a file that holds one; None for Colab's secret, or the variable, ROADTRAIN_TICKET. `allow_code`: it
    runs code that drivers send. `paid`: whether this runtime is paid for; on others there is a warning. `name`: what others call
    the machine. `devices`: how many are lent, 0 for all.

    Interrupting the cell has the machine leave: others take over what it holds. A kernel that is started again leaves it
    working: the same cell shows it again. Raises UsageError for what is refused, and RunFailed when the fleet cannot be reached.
    """
    found = ticket_of(ticket)
    if said := warning(paid=paid):
        print(said, flush=True)
    agent = Agent.in_folder()
    if (machine := agent.machine()) is not None:
        print(f"this machine is {machine} already, and has gone on; {LEAVE}", flush=True)
        agent.follow(from_end=TAIL_BYTES)
    else:
        print(f"joining; {LEAVE}", flush=True)
        agent.start(found, allow_code=allow_code, name=name, devices=devices)
        agent.follow()


@dataclass(slots=True)
class Agent:
    """The one of this user on this machine that a notebook has started. `child`: if it was this process that did."""

    folder: Path
    child: subprocess.Popen[bytes] | None = None

    @classmethod
    def in_folder(cls) -> Agent:
        """Of the folder where it leaves word of itself. Raises UsageError where there is none."""
        private = private_folder()
        if private is None:
            raise UsageError("there is no folder for what the agent leaves behind", "make the home folder writable")
        folder = private / "notebook"
        folder.mkdir(exist_ok=True, mode=0o700)
        return cls(folder)

    @property
    def log(self) -> Path:
        """All that it says."""
        return self.folder / "agent.log"

    @property
    def _pid(self) -> int:
        try:
            return int((self.folder / "agent.pid").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 0

    def machine(self) -> str | None:
        """What the machine is called that it lends; None when it does not live, or has not joined."""
        return machine_of(self._pid)

    def start(self, ticket: Ticket, *, allow_code: bool, name: str, devices: int) -> None:
        """Start it, in a session of its own: a kernel that is ended, or interrupted, does not take it along."""
        words = ["join", "--no-listen", *(["--allow-code"] if allow_code else [])]
        words += [*(["--name", name] if name else []), *(["--devices", str(devices)] if devices else [])]
        command = [sys.executable, "-u", "-m", "roadtrain", *words]
        environment = {**os.environ, VARIABLE: ticket.text()}  # not among its words, which all users can see
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        (self.folder / "agent.pid").write_text(str(self.child.pid), encoding="ascii")

    def follow(self, from_end: int | None = None) -> None:
        """Show what it says until it is gone; `from_end`: so many bytes of what it has said before. Raises UsageError and
        RunFailed for what ended it."""
        with self.log.open("rb") as log:
            if from_end is not None:
                log.seek(max(0, self.log.stat().st_size - from_end))
                log.readline() if log.tell() else None
            while True:
                try:
                    lives = self._lives()
                    self._show(log.read())
                    if not lives:
                        break
                    time.sleep(LOOK_S)
                except KeyboardInterrupt:
                    self._leave()
        self._raise_what_ended_it()

    def _lives(self) -> bool:
        return self.machine() is not None if self.child is None else self.child.poll() is None

    def _leave(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGTERM)

    def _show(self, said: bytes) -> None:
        if said:
            print(said.decode(errors="replace"), end="", flush=True)

    def _raise_what_ended_it(self) -> None:
        if self.child is None or self.child.returncode in (0, None):
            return
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        hints = [line.removeprefix("hint: ") for line in lines if line.startswith("hint: ")]
        message, hint = errors[-1] if errors else "the agent of this machine has ended", hints[-1] if hints else ""
        raise (UsageError if self.child.returncode == UsageError.exit_code else RunFailed)(message, hint)
