"""Where a worker stands: what it is told that the plan, which is the same for all, does not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from roadtrain.session.control import Control
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.relay import Relay


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """A worker's slot of the samples, its address, the run's folder, the step and version it began with, its number among the
    workers of its machine, the relay where it meets those that it cannot dial, and whether others may dial it."""

    slot: int
    slots: int
    host: str
    folder: Path
    credentials: Credentials
    begun: tuple[int, int] = (0, 0)
    local: int = 0
    relay: Relay | None = None
    listens: bool = True


@dataclass(frozen=True, slots=True)
class ScriptContext:
    """What a script that runs as a worker finds when it attaches. `chosen`: what was said before it began, which wins over its
    own keywords. `resume`: the step of the folder's checkpoint to go on from, if any. `kept`: what of `chosen` only the run that
    is gone on with had said, by (section, field)."""

    worker: WorkerContext
    control: Control
    chosen: Mapping[str, Mapping[str, object]]
    resume: int | None
    kept: frozenset[tuple[str, str]] = frozenset()


class FeederContext(Protocol):
    """What a script that runs as a feeder finds: whoever wants its data."""

    def know(self, name: str, source: Any) -> None:
        """Workers ask for batches of `source` as `name`."""
        ...

    def serve(self) -> None:
        """Make them until the run is over."""
        ...


@dataclass(slots=True)
class _Here:
    """What this process is."""

    script: ScriptContext | None = None
    feeding: FeederContext | None = None


_here = _Here()


def run_as(context: ScriptContext | None) -> None:
    """From now on this process is that worker; None: a fleet of one."""
    _here.script = context


def feed_as(feeding: FeederContext) -> None:
    """From now on this process is a feeder."""
    _here.feeding = feeding


def this_feeder() -> FeederContext | None:
    """What a feeder serves, None where this process is none."""
    return _here.feeding


def this_worker() -> ScriptContext | None:
    """The worker that this process is, None for a fleet of one."""
    return _here.script
