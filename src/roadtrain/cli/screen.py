"""What a person sees: a progress bar while it runs, a table when it has. All on stderr but the table."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from roadtrain.fleet.coordinator import Coordinator, Phase
from roadtrain.launch.order import Order
from roadtrain.report import Report

PHASES = {
    Phase.GATHERING: "starting workers",
    Phase.TRAINING: "training",
    Phase.STOPPING: "stopping, saving a checkpoint",
    Phase.FINISHING: "saving and evaluating",
    Phase.CLOSING: "closing",
    Phase.OVER: "over",
}


class Screen:
    """Progress of one run. Nothing is drawn where stderr is not a terminal."""

    def __init__(self, order: Order, *, quiet: bool) -> None:
        self._order = order
        self._quiet = quiet
        self._total = order.plan.job.steps * order.plan.place.workers
        self._console = Console(stderr=True)
        self._told = 0
        self._announced = False
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description:30}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total} steps"),
            )
            self._progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self._console)
            self._task = self._progress.add_task("starting workers", total=self._total)

    def __enter__(self) -> Screen:
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
            self._announce()
        for worker in coordinator.registry.lost[self._told :]:
            others = "" if coordinator.phase is Phase.OVER else "; the others go on"
            self._console.print(f"{worker} is lost{others}", style="yellow")
            self._told += 1
        if self._progress is None or self._task is None:
            return
        steps = sum(worker.step for worker in coordinator.registry.workers.values())
        self._progress.update(self._task, completed=steps, description=PHASES[coordinator.phase])

    def _announce(self) -> None:
        plan = self._order.plan
        self._announced = True
        what = f"{plan.job.recipe}, workers {plan.place.workers}, {plan.sync.strategy}, codec {plan.codec.up}"
        self._console.print(f"{what}\nrun folder {self._order.folder}", highlight=False, soft_wrap=True)


def show(report: Report, note: str = "") -> None:
    """The table of a finished run, a note on it, its sample and where to find it, on stdout."""
    console = Console(highlight=False)
    if report.sample:
        console.print("sample of the trained model:", style="bold")
        console.print(report.sample, markup=False, soft_wrap=True)
    table = Table(title=f"{report.recipe}: {report.status}", show_header=False)
    for name, value in rows(report):
        table.add_row(name, value)
    console.print(table)
    if note:
        console.print(note)
    console.print(f"run folder {report.folder}", soft_wrap=True)


def rows(report: Report) -> list[tuple[str, str]]:
    """The report in a dozen lines."""
    shown = [
        ("train loss", _number(report.train_loss)),
        ("validation loss", _number(report.val_loss)),
        ("steps, all workers", f"{report.steps:,}"),
        ("samples per second", f"{report.throughput.samples_per_s:,.1f}"),
    ]
    if report.tokens:
        shown.append(("tokens per second", f"{report.throughput.tokens_per_s:,.0f}"))
    ratio = report.bytes.uncompressed / report.bytes.sent if report.bytes.sent else None
    shown += [
        ("utilisation", f"{report.utilisation:.1%}"),
        ("bytes sent", f"{report.bytes.sent / 1e6:,.1f} MB"),
        ("against fp32 every step", f"{ratio:.1f}x fewer" if ratio else "-"),
        (
            "staleness mean / p95 / max",
            f"{report.staleness.mean:.2f} / {report.staleness.p95:.0f} / {report.staleness.max}",
        ),
        ("wall time", f"{report.wall_s:.1f} s"),
    ]
    if report.events.lost:
        shown.append(("workers lost", f"{report.events.lost} ({report.events.handoffs} fragments handed over)"))
    if report.refused:
        shown.append(("contributions refused", str(report.refused)))
    return shown


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
