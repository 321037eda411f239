"""A run's workers and feeders as actors, as its driver sees them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from roadtrain.errors import RoadtrainError, RunFailed, UsageError
from roadtrain.fleet.worker_spec import WorkerSpec
from roadtrain.launch.attempts import GOODBYE_S, RESTARTS
from roadtrain.launch.snapshot import RunSnapshot
from roadtrain.launch.supervisor import Watcher
from roadtrain.launch.words import Words
from roadtrain.ray_cluster.actor import Actor
from roadtrain.ray_cluster.placement import Placement

SHARED = "start it in a folder that all nodes share, with an --out that they share too"


@dataclass(frozen=True, slots=True)
class Started:
    """An actor, and what it comes to. `left`: how often a feeder may be started again."""

    handle: Any
    code: ray.ObjectRef[int]
    given: WorkerSpec
    left: int = 0


class RayActors:
    """The actors of one attempt at a run in `folder`. `words` shows what worker 0 prints; None: its log alone has it."""

    def __init__(self, placement: Placement, folder: Path, words: Words | None) -> None:
        self._placement, self._folder, self._words = placement, folder, words
        self._workers: dict[str, Started] = {}
        self._feeders: dict[str, Started] = {}
        self._partings: list[ray.ObjectRef[None]] = []
        self._out = folder / "logs" / "w0.out"
        self._shown = self._out.stat().st_size if self._out.exists() else 0

    def start(self, given: WorkerSpec) -> None:
        """Start the worker of `given`, in its bundle."""
        name = f"w{given.slot}"
        threads = max(1, int(self._placement.bundles[given.slot]["CPU"])) if given.threads else 0
        handle = self._actor(name, given.slot)
        code = handle.work.remote(replace(given, threads=threads), self._placement.seat(given.slot))
        self._workers[name] = Started(handle, code, given)

    def start_feeders(self, count: int, given: WorkerSpec) -> None:
        """Start so many feeders of the run that the worker of `given` is in."""
        for number in range(count):
            self._start_feeder(replace(given, slot=number, local=number, threads=1), RESTARTS)

    def _start_feeder(self, given: WorkerSpec, left: int) -> None:
        name = f"f{given.slot}"
        handle = self._actor(name, self._placement.workers + given.slot)
        self._feeders[name] = Started(handle, handle.feed.remote(given), given, left)

    def _actor(self, name: str, bundle: int) -> Any:
        wanted = self._placement.bundles[bundle]
        where = PlacementGroupSchedulingStrategy(self._placement.group, placement_group_bundle_index=bundle)
        kind = ray.remote(Actor).options(
            num_cpus=wanted["CPU"], num_gpus=wanted.get("GPU", 0), max_restarts=0, scheduling_strategy=where
        )
        return kind.remote(name, str(self._folder), os.getcwd())

    def beside(self, watcher: Watcher) -> Watcher:
        """What watches a run, shows its words, and sees to its feeders: a run goes on without them."""

        def watch(snapshot: RunSnapshot) -> None:
            for name in self._ended(self._feeders):
                feeder = self._feeders.pop(name)
                if feeder.left:
                    self._start_feeder(feeder.given, feeder.left - 1)
            self._show_words()
            watcher(snapshot)

        return watch

    def dead(self) -> list[str]:
        """Workers that have ended since this was last asked. Raises UsageError where a node will not do, RunFailed where it
        cannot begin one."""
        ended = self._ended(self._workers)
        for name in ended:
            self._part(self._workers.pop(name))
        return ended

    def kill(self, names: Sequence[str]) -> None:
        """End what is left of these workers, at once."""
        for name in names:
            if name in self._workers:
                ray.kill(self._workers.pop(name).handle)

    def end(self, *, at_once: bool = False) -> None:
        """Wait for the actors a moment, then kill what is left."""
        left = {**self._workers, **self._feeders}
        self._workers, self._feeders = {}, {}
        with suppress(RayError):  # where Ray itself is gone, so are they
            if not at_once:
                _await([each.code for each in left.values()])
                for each in left.values():
                    if _has_ended(each):
                        self._part(each)
                _await(self._partings)
            for each in left.values():
                ray.kill(each.handle)
        self._show_words()

    def _part(self, actor: Started) -> None:
        """Have the process of an actor that is done come to its end as others do: a script may have left it something to do."""
        self._partings.append(actor.handle.__ray_terminate__.remote())

    def _ended(self, actors: Mapping[str, Started]) -> list[str]:
        """Of whom Ray says that they have ended; where it knows why, their logs do too."""
        ended = [name for name, actor in actors.items() if _has_ended(actor)]
        for name in ended:
            try:
                ray.get(actors[name].code)
            except RayTaskError as error:
                raise _refused(name, error) from error
            except RayError as error:
                with suppress(OSError), (self._folder / "logs" / f"{name}.log").open("a", encoding="utf-8") as log:
                    log.write(f"Ray: {error}\n")
        return ended

    def _show_words(self) -> None:
        """What the first worker's script has printed since."""
        if self._words is None or not self._out.exists():
            return
        with self._out.open("rb") as file:
            file.seek(self._shown)
            new = file.read()
        if new:
            self._shown += len(new)
            self._words(new)


def _has_ended(actor: Started) -> bool:
    return bool(ray.wait([actor.code], timeout=0)[0])


def _await(codes: Sequence[ray.ObjectRef[Any]]) -> None:
    if codes:
        ray.wait(list(codes), num_returns=len(codes), timeout=GOODBYE_S)


def _refused(name: str, error: RayTaskError) -> RoadtrainError:
    """What an exception in an actor means, where a worker says for itself what goes wrong amid its run."""
    cause = error.cause
    if isinstance(cause, UsageError):
        return UsageError(cause.message, SHARED)
    said = str(cause or error).strip().splitlines() or ["no word"]
    return RunFailed(f"{name} cannot begin on Ray: {said[-1]}", "roadtrain is to be installed on every node")
