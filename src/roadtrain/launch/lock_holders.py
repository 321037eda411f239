"""Who has a run's folder: the processes of this machine that have its lock open, as far as /proc tells."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")


def holders(lock: Path) -> list[int]:
    """Their ids. Empty where the system does not say, as for processes of other people and other machines."""
    with suppress(OSError):
        wanted = lock.stat()
        return sorted(int(each.name) for each in PROC.iterdir() if each.name.isdigit() and _has_open(each, wanted))
    return []


def how_to_end(processes: list[int]) -> str:
    """What ends a run that has these: its driver saves and stops; workers that have lost theirs see the run through, and hear
    nothing but a kill."""
    drivers = [pid for pid in processes if _hears_termination(pid)]
    if drivers:
        return f"stop it with kill {' '.join(map(str, drivers))}"
    return f"end what is left of it with kill -9 {' '.join(map(str, processes))}" if processes else "stop it"


def _has_open(process: Path, wanted: os.stat_result) -> bool:
    with suppress(OSError):  # it has ended, or is not ours to look at
        for handle in (process / "fd").iterdir():
            with suppress(OSError):
                if os.path.samestat(handle.stat(), wanted):
                    return True
    return False


def _hears_termination(pid: int) -> bool:
    with suppress(OSError):
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("SigIgn:"):
                return not int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1
    return False
