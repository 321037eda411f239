"""A run from its first worker to its report, wherever its workers are, and once more from a checkpoint where that helps."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from roadtrain.errors import RunFailed
from roadtrain.fleet.serving import listen
from roadtrain.fleet.worker_spec import WorkerSpec
from roadtrain.launch.restart import after_failure, note
from roadtrain.launch.run_folder import RunLock, opened
from roadtrain.launch.run_request import RunRequest, threads_per_worker
from roadtrain.launch.supervisor import Supervisor, Watcher
from roadtrain.launch.words import Words
from roadtrain.report import Report
from roadtrain.wire.credentials import Credentials, is_loopback

RESTARTS = 3
"""How often a run starts again by itself, and a feeder."""

GOODBYE_S = 5.0
"""How long the workers have to end by themselves when their run is over."""


class Crew(Protocol):
    """The workers of one attempt at a run, w0, w1 and so on, and its feeders."""

    def start(self, given: WorkerSpec) -> None:
        """Start the worker of `given`."""
        ...

    def start_feeders(self, count: int, given: WorkerSpec) -> None:
        """Start so many feeders of the run that the worker of `given` is in."""
        ...

    def beside(self, watcher: Watcher) -> Watcher:
        """What watches a run, and sees to its feeders."""
        ...

    def dead(self) -> list[str]:
        """Workers that have ended since this was last asked."""
        ...

    def kill(self, names: Sequence[str]) -> None:
        """End what is left of these workers, at once."""
        ...

    def end(self, *, at_once: bool = False) -> None:
        """Wait for all a moment, then end what is left."""
        ...


class Site(Protocol):
    """Where workers are started."""

    @property
    def host(self) -> str:
        """The address of this machine that they reach."""
        ...

    def crew(self, order: RunRequest, lock: RunLock, words: Words | None) -> Crew:
        """For one attempt at `order`, none started yet. `words` shows what the first worker prints, where that is wanted."""
        ...


def see_through(
    order: RunRequest,
    site: Site,
    watcher: Watcher,
    words: Words | None = None,
    meet: Callable[[WorkerSpec], None] = lambda given: None,
) -> Report:
    """Run `order` with its workers at `site`, and its coordinator in this process. `words` shows what the first one's script
    prints. `meet` is told where the coordinator is, each time that it starts. Raises RunFailed, and what `watcher` raises.

    A replica that lost a part of itself starts again from its last checkpoint; one that ran out of memory, in smaller pieces.
    """
    with opened(order) as lock:
        for left in reversed(range(RESTARTS + 1)):
            credentials = Credentials(secrets.token_urlsafe(32), secure=not is_loopback(site.host))
            conductor = Supervisor(order, credentials, listen(site.host, 0))
            crew = site.crew(order, lock, words if order.is_script else None)
            try:
                return _attempt(conductor, credentials, site.host, watcher, crew, meet)
            except RunFailed as error:
                again = after_failure(order, conductor.coordinator) if left else None
                if again is None:
                    raise
                note(order, again, error)
                order = again
    raise AssertionError("the last failure stands")


def _attempt(
    conductor: Supervisor,
    credentials: Credentials,
    host: str,
    watcher: Watcher,
    crew: Crew,
    meet: Callable[[WorkerSpec], None],
) -> Report:
    order = conductor.order
    threads = threads_per_worker(order.plan, os.environ)
    first = WorkerSpec(conductor.serving.url, credentials.token, credentials.secure, 0, host, 0, threads)
    try:
        specs = [replace(first, slot=slot, local=slot) for slot in range(order.plan.place.workers)]

        def renew(names: Sequence[str]) -> None:
            crew.kill(names)
            for name in names:
                crew.start(specs[int(name[1:])])

        with conductor.hearing_ctrl_c():
            for given in specs:
                crew.start(given)
            meet(first)
            crew.start_feeders(order.plan.place.feeders, first)
            conductor.watch(crew.dead, crew.beside(watcher), renew if conductor.returns else None)
    except BaseException as error:
        conductor.failed(error)
        crew.end(at_once=True)  # nobody has told them
        raise
    finally:
        crew.end(at_once=order.is_script and conductor.coordinator.error is not None)
        report = conductor.finish()
    return report
