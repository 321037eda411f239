"""Progress of a real run, on stderr."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from roadtrain.fleet.coordinator import Coordinator
from roadtrain.fleet.phase import Phase
from roadtrain.launch.run_request import RunRequest
from roadtrain.plan import parse

PHASES = {
    Phase.GATHERING: "starting workers",
    Phase.TRAINING: "training",
    Phase.STOPPING: "stopping, saving a checkpoint",
    Phase.FINISHING: "saving and evaluating",
    Phase.CLOSING: "closing",
    Phase.OVER: "over",
}


class RunProgress:
    """Progress of one run. Nothing is drawn where stderr is not a terminal."""

    def __init__(self, order: RunRequest, *, quiet: bool) -> None:
        self._order = order
        self._quiet = quiet
        self._total = None if order.is_script else order.plan.job.steps * order.plan.place.workers
        self._console = Console(stderr=True)
        self._told = 0
        self._announced = False
        self._begun = b""
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description:30}"),
                BarColumn(),
                TextColumn("{task.completed} steps" if self._total is None else "{task.completed}/{task.total} steps"),
            )
            self._progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self._console)
            self._task = self._progress.add_task("starting workers", total=self._total)

    def __enter__(self) -> RunProgress:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def watch(self, coordinator: Coordinator) -> None:
        """Draw where the run stands; say what began and who was lost."""
        if not self._announced and not self._quiet and coordinator.phase is Phase.TRAINING:
            self._announce(coordinator)
        for worker in coordinator.registry.lost[self._told :]:
            others = "" if coordinator.phase is Phase.OVER else "; the others go on"
            self._console.print(f"{worker} is lost{others}", style="yellow")
            self._told += 1
        if self._progress is None or self._task is None:
            return
        steps = sum(worker.step for worker in coordinator.registry.workers.values())
        self._progress.update(self._task, completed=steps, description=PHASES[coordinator.phase])

    def words(self, data: bytes) -> None:
        """What a script prints: to stdout, under --json to stderr; above the bar, where one is drawn. Any thread may call."""
        stream = sys.stderr if self._quiet else sys.stdout
        if self._progress is not None and stream.isatty():
            whole, _, self._begun = (self._begun + data).rpartition(b"\n")
            if whole:
                self._console.print(whole.decode(errors="replace"), markup=False, highlight=False, soft_wrap=True)
            return
        stream.buffer.write(data)
        stream.flush()

    def _announce(self, coordinator: Coordinator) -> None:
        terms = coordinator.registry.terms  # a script says itself how it trains
        plan = parse(terms.plan) if terms is not None and terms.plan else self._order.plan
        self._announced = True
        what = f"{plan.job.target}, workers {plan.place.workers}, {plan.sync.strategy}, codec {plan.codec.up}"
        self._console.print(f"{what}\nrun folder {self._order.folder}", highlight=False, soft_wrap=True)
