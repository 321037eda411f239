"""What happened in a simulated run, in lines that a person can read: for the schedule that broke a promise."""

from __future__ import annotations

from collections import deque

from roadtrain.lease import slices_of
from roadtrain.simulate.faults import Faults
from roadtrain.simulate.worker import SimulatedWorker
from roadtrain.sync.effects import (
    Apart,
    Committed,
    Counted,
    Diverged,
    Effects,
    Event,
    Evicted,
    HandedOff,
    LeftOut,
    Orphaned,
    Refused,
    Resent,
    Spoils,
    Synced,
    TakenBack,
)

LINES = 80
"""How many of the last events are kept."""


class Chronicle:
    """The last events of a run, as an observer of the simulation sees them, and the faults among them."""

    def __init__(self, faults: Faults, lines: int = LINES) -> None:
        self._faults = faults
        self._seen: deque[tuple[float, str]] = deque(maxlen=lines)

    def __call__(self, now: float, worker: SimulatedWorker, effects: Effects) -> None:
        for event in effects.events:
            self._seen.append((now, f"{worker.name}  {words(event)}"))
        for install in effects.installs:
            text = f"loads fragment {install.fragment} at version {install.version}, the answer to its clock {install.clock}"
            self._seen.append((now, f"{worker.name}  {text}"))

    def lines(self) -> list[str]:
        """The kept events and all faults, in order of time."""
        both = [*self._seen, *faults_in_words(self._faults)]
        return [f"{time:9.3f} s  {text}" for time, text in sorted(both, key=lambda line: line[0])]


def words(event: Event) -> str:
    """An event as a person would say it."""
    match event:
        case Committed(fragment, version, workers):
            return f"commits version {version} of fragment {fragment}, from {', '.join(workers) or 'nobody'}"
        case Counted(contributions):
            what = ", ".join(
                f"{worker}'s of {' '.join(map(str, slices_of(leases)))}" for worker, leases in contributions
            )
            return f"counts {what}"
        case LeftOut(fragment, worker, clock):
            return f"leaves contribution {clock} of {worker} to fragment {fragment} out: others have brought that in"
        case TakenBack(worker, leases):
            return f"has what {worker} computed of {' '.join(map(str, slices_of(leases)))} computed again"
        case Apart(what, workers):
            return f"sees another {what} at one of {', '.join(workers)}"
        case Refused(fragment, worker, clock, reason):
            return f"refuses contribution {clock} of {worker} to fragment {fragment}: {reason}"
        case Spoils(fragment, worker, reason):
            return f"can use nothing that {worker} contributes to fragment {fragment}: {reason}"
        case HandedOff(fragment, version):
            return f"takes over fragment {fragment} at version {version}"
        case Resent(fragment):
            return f"asks or says again, fragment {fragment}"
        case Orphaned(fragment):
            return f"is to own fragment {fragment}, and has no state of it"
        case Diverged(fragment, version):
            return f"stands by with other bits of fragment {fragment} from version {version} on"
        case Synced(fragment, whole):
            return f"stands by for fragment {fragment} and {'holds it' if whole else 'has to be given it anew'}"
        case Evicted(view):
            return f"learns that view {view} is without it"


def faults_in_words(faults: Faults) -> list[tuple[float, str]]:
    """(time, what goes wrong then)."""
    lines = [(time, f"** w{worker} dies") for time, worker in faults.crashes]
    lines += [(time, f"** w{worker} stands still for {seconds:.1f} s") for time, seconds, worker in faults.sleeps]
    lines += [(time, f"** w{worker} is cut off for {seconds:.1f} s") for time, seconds, worker in faults.isolations]
    for time, seconds, side in faults.partitions:
        names = ", ".join(f"w{index}" for index in side)
        lines.append((time, f"** {names} and the others cannot reach each other for {seconds:.1f} s"))
    return lines + [(time, "** one more worker comes") for time in faults.joins]
