"""Progress of a real run, on stderr: a bar where that is a terminal, else a line now and then."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections import deque
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from roadtrain.cli.streams import Stream
from roadtrain.launch.run_request import RunRequest
from roadtrain.launch.snapshot import RunSnapshot
from roadtrain.membership.phase import Phase
from roadtrain.plan import Plan, notes_on, parse

PHASES = {
    Phase.GATHERING: "starting",
    Phase.TRAINING: "training",
    Phase.STOPPING: "stopping, saving a checkpoint",
    Phase.FINISHING: "saving and evaluating",
    Phase.CLOSING: "closing",
    Phase.OVER: "over",
}
LINES_S = (5.0, 60.0)
"""Seconds between two lines where there is no bar: they grow from the first to the second."""
MISSING_S = 10.0
"""It is said who has not come after so long."""
RATE_S = 10.0
"""Throughput is shown over so many seconds."""


class RunProgress:
    """Progress of one run."""

    def __init__(self, order: RunRequest, *, quiet: bool, bar: bool = True) -> None:
        """`quiet`: a program reads what comes of it; nothing is said but on a terminal, and what is wrong. Without `bar`, who
        made this shows the `figures`."""
        self._order, self._quiet = order, quiet
        self._stream = sys.stderr if quiet else sys.stdout
        self._total = None if order.is_script else order.plan.job.steps
        self._console = Console(stderr=True, highlight=False)
        self._told = self._back = 0
        self._first = order.begins_at()
        self._announced = self._watched = False
        self._missing_s = MISSING_S
        self._warned = 0
        self._unfinished = b""
        self._seen: deque[tuple[float, float]] = deque()
        self._began = self._line_at = time.monotonic()
        self._line_s, self._lines = LINES_S[0], bar and not quiet
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        if bar and self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.fields[figures]}"))
            self._progress = Progress(*columns, console=self._console, expand=True)
            self._task = self._progress.add_task(PHASES[Phase.GATHERING], total=self._total, figures="")

    def __enter__(self) -> RunProgress:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def watch(self, now: RunSnapshot) -> None:
        """Draw where the run stands; say what began, who was lost, and what looks wrong."""
        if not self._announced and now.phase is Phase.TRAINING:
            self._announced = True
            self._began = self._line_at = time.monotonic()
            if not self._quiet:
                self._announce(now)
                self._say_where_to_watch(now)
        if self._announced and self._quiet and self._goes_on(now):
            self._say_where_to_watch(now)
        self._warn(now)
        self._say_who_is_missing(now)
        figures = self.figures(now)
        if self._progress is not None and self._task is not None:
            step = now.step
            self._progress.update(self._task, completed=step, description=PHASES[now.phase], figures=figures)
        elif self._lines and now.phase is Phase.TRAINING and time.monotonic() >= self._line_at + self._line_s:
            self._line_at, self._line_s = time.monotonic(), min(2 * self._line_s, LINES_S[1])
            self._console.print(figures, soft_wrap=True)

    def words(self, data: bytes) -> None:
        """What a script prints: to stdout, under --json to stderr; above the bar, where one is drawn. Any thread may call."""
        stream = self._stream
        if self._progress is not None and stream.isatty():
            whole, _, self._unfinished = (self._unfinished + data).rpartition(b"\n")
            if whole:
                self._console.print(whole.decode(errors="replace"), markup=False, highlight=False, soft_wrap=True)
            return
        if isinstance(stream, Stream):
            stream.put(data)
        else:
            stream.write(data.decode(errors="replace"))

    # ------------------------------------------------------------------------------------------------- what is said

    def _announce(self, now: RunSnapshot) -> None:
        plan = parse(now.plan) if now.plan else self._order.plan  # a script says itself how it trains
        what = f"{plan.job.target}, workers {now.expected}, {plan.sync.strategy}, codec {plan.codec.up}"
        resumed = "" if self._order.resume is None else f", going on from step {self._first}"
        self._console.print(f"{what}{resumed}\nrun folder {self._order.folder}", markup=False, soft_wrap=True)
        show_notes(plan, self._console)

    def _goes_on(self, now: RunSnapshot) -> bool:
        """Whether a run takes so long that somebody may want to watch it, as far as its pace tells."""
        done, took = now.step - self._first, time.monotonic() - self._began
        return took > LINES_S[1] or (done > 0 and (self._total is None or took / done * self._total > LINES_S[0]))

    def _say_where_to_watch(self, now: RunSnapshot) -> None:
        if now.page and not self._watched:
            self._watched = True
            self._console.print(f"watch it at {now.page}", markup=False, soft_wrap=True)

    def _warn(self, now: RunSnapshot) -> None:
        for worker in now.lost[self._told :]:
            others = "" if now.phase is Phase.OVER else "; the others go on"
            self._console.print(f"{worker} is lost{others}", style="yellow")
            self._told += 1
        for worker in now.back[self._back :]:
            self._console.print(f"{worker} is back", style="green")
            self._back += 1
        for warning in now.warnings[self._warned :]:
            self._console.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)
            self._warned += 1

    def _say_who_is_missing(self, now: RunSnapshot) -> None:
        """Whoever gathers for long waits for somebody: each line takes twice as long to come as the one before."""
        waited, missing = time.monotonic() - self._began, now.missing
        if now.phase is Phase.GATHERING and missing and waited > self._missing_s:
            self._missing_s *= 2
            names = f"{', '.join(missing[:5])}{' and others' if len(missing) > 5 else ''}"
            until = " to attach" if self._order.is_script else ""  # a script that never does trains with nobody
            self._console.print(f"waiting for {names}{until} ({waited:.0f} s)", markup=False, soft_wrap=True)

    def figures(self, now: RunSnapshot) -> str:
        """Step, loss, throughput and time, as far as they are known."""
        metrics = [worker.figures for worker in now.workers]
        step, clock = now.step, time.monotonic()
        shown = [f"step {step:,}" if self._total is None else f"step {step:,}/{self._total:,}"]
        for name, label in (("loss", "loss"), ("val_loss", "val")):
            known = [value for said in metrics if (value := said.get(name)) is not None]
            values = [float(value) for value in known if math.isfinite(value)]
            if values:
                shown.append(f"{label} {statistics.fmean(values):.3f}")
        unit = "tokens" if any(said.get("tokens") for said in metrics) else "samples"
        if rate := self._rate(clock, sum(float(said.get(unit) or 0) for said in metrics)):
            shown.append(f"{rate:,.0f} {unit}/s")
        took = clock - self._began
        if now.phase is Phase.TRAINING and self._total and 0 < step < self._total:
            first = self._first
            left = took * max(0, self._total - step) / max(1, step - first)
            shown.append(f"{duration(took)}, {duration(left)} left")
        else:
            shown.append(duration(took))
        return "  ".join(shown)

    def _rate(self, now: float, done: float) -> float:
        """Per second, over the last moments in which something was told."""
        if not self._seen or done > self._seen[-1][1]:
            self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] < now - RATE_S:
            self._seen.popleft()
        (begin, before), (end, after) = self._seen[0], self._seen[-1]
        return (after - before) / (end - begin) if end > begin else 0.0


def show_notes(plan: Plan, console: Console) -> None:
    """Say what a person should know of a plan before its run begins, in lines that fit the terminal."""
    for note in notes_on(plan):
        console.print(f"note: {note}", markup=False)


def duration(seconds: float) -> str:
    """As a clock shows it: 1:02:03, or 2:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
