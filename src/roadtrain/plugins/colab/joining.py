"""The agent of a machine that a notebook lends: a process of its own, which outlives the kernel that has started it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

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
    if agent.start(found, allow_code=allow_code, name=name, devices=devices):
        print(f"joining; {LEAVE}", flush=True)
        agent.follow()
    else:
        agent.check(found)
        print(f"this machine is {agent.machine() or 'joining'} already, and has gone on; {LEAVE}", flush=True)
        agent.follow(from_end=TAIL_BYTES)


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
    def _lock(self) -> Path:
        return self.folder / "agent.lock"

    @property
    def _started(self) -> tuple[int, str]:
        """Its process, and the hash of the key of its coordinator, in hex; (0, "") for none."""
        try:
            pid, pin = (self.folder / "agent.pid").read_text(encoding="ascii").split()
            return int(pid), pin
        except (OSError, ValueError):
            return 0, ""

    def check(self, ticket: Ticket) -> None:
        """Raises UsageError where it is lent to another fleet than that of `ticket`."""
        if self._started[1] not in ("", ticket.pin.hex()):
            raise UsageError("this machine is lent to another fleet", "roadtrain leave has it leave that one")

    def machine(self) -> str | None:
        """What the machine is called that it lends; None when it does not live, or has not joined."""
        return machine_of(self._started[0])

    def start(self, ticket: Ticket, *, allow_code: bool, name: str, devices: int) -> bool:
        """Start it, in a session of its own: a kernel that is ended, or interrupted, does not take it along. Whether it did not
        live already. It holds the lock as long as it does."""
        words = ["join", "--no-listen", *(["--allow-code"] if allow_code else [])]
        words += [*(["--name", name] if name else []), *(["--devices", str(devices)] if devices else [])]
        command = [sys.executable, "-u", "-m", "roadtrain", *words]
        environment = {**os.environ, VARIABLE: ticket.text()}  # not among its words, which all users can see
        with self._lock.open("ab") as lock:
            if not _locked(lock):
                return False
            with self.log.open("wb") as log:
                self.child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                    pass_fds=(lock.fileno(),),  # to it alone, not to its own children
                )
        (self.folder / "agent.pid").write_text(f"{self.child.pid} {ticket.pin.hex()}", encoding="ascii")
        return True

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
        if self.child is not None:
            return self.child.poll() is None
        with self._lock.open("ab") as lock:
            return not _locked(lock)

    def _leave(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._started[0], signal.SIGTERM)

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


def _locked(file: BinaryIO) -> bool:
    """Lock it, as long as it is open in this process or in one that was started with it; False where another has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
