"""Figures of a comparison: loss against time and bytes, what every worker did when, staleness. Drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # files only: no window, whatever the person's settings say
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from roadtrain.launch.comparison import Result

STRIPS_MAX = 16
"""Workers of one plan that get a strip; more could not be told apart."""
SHOWN_SPANS = 400
"""Spans of one worker that are drawn one by one."""
COMPUTE, WAIT, SEND = "#3b75af", "#e8a33d", "#4f9d69"


def draw(plans: Sequence[Result], folder: Path, target_loss: float | None) -> list[Path]:
    """Write all figures into `folder`; returns their paths, in the order in which they should be read."""
    figures: dict[str, Figure | None] = {
        "loss-time": _losses(plans, "time_s", "seconds", 1.0, target_loss),
        "loss-bytes": _losses(plans, "sent_bytes", "MB sent by all workers", 1e-6, target_loss),
        "workers": _strips(plans),
        "staleness": _staleness(plans),
    }
    paths: list[Path] = []
    for name, figure in figures.items():
        if figure is not None:
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1], dpi=130, bbox_inches="tight")
            plt.close(figure)
    return paths


def _axes(height: float = 4.2) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(8.5, height))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _losses(plans: Sequence[Result], across: str, label: str, unit: float, target_loss: float | None) -> Figure | None:
    points = [point for plan in plans for course in plan.courses for point in course.points]
    if not any(getattr(point, across) > 0 for point in points):  # one worker sends nothing
        return None
    figure, axes = _axes()
    for number, plan in enumerate(plans):
        for seed, course in enumerate(plan.courses):
            x = [getattr(point, across) * unit for point in course.points]
            y = [point.loss for point in course.points]
            name = plan.name if seed == 0 else None
            axes.plot(x, y, color=f"C{number % 10}", label=name, alpha=1.0 if seed == 0 else 0.35, linewidth=1.6)
    if target_loss is not None:
        axes.axhline(target_loss, color="black", linestyle=":", linewidth=1)
    axes.set(xlabel=label, ylabel="training loss")
    if across == "sent_bytes":
        axes.set_xscale("log")
    axes.legend(fontsize=8)
    return figure


def _strips(plans: Sequence[Result]) -> Figure | None:
    """A strip for each worker: what it computed and waited; above it, thin, when it sent."""
    rows = [
        (plan.name, worker, spans)
        for plan in plans
        for worker, spans in list(plan.courses[0].spans.items())[:STRIPS_MAX]
    ]
    if not rows:
        return None
    figure, axes = _axes(1.2 + 0.27 * len(rows))
    for row, (_, _, spans) in enumerate(rows):
        shown = spans[:SHOWN_SPANS]
        axes.broken_barh([(s.begin_s, s.compute_s) for s in shown], (row - 0.32, 0.5), color=COMPUTE)
        axes.broken_barh([(s.begin_s + s.compute_s, s.wait_s) for s in shown], (row - 0.32, 0.5), color=WAIT)
        sent = [(s.begin_s, s.end_s - s.begin_s) for s in shown if s.sent_bytes > 0]
        axes.broken_barh(sent, (row + 0.2, 0.14), color=SEND)
    axes.set_yticks(range(len(rows)), [f"{plan}  {worker}" for plan, worker, _ in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    patches = [Patch(color=color) for color in (COMPUTE, WAIT, SEND)]
    axes.legend(patches, ["compute", "wait", "send"], fontsize=8, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    return figure


def _staleness(plans: Sequence[Result]) -> Figure | None:
    stale = [plan for plan in plans if any(value > 0 for value in plan.staleness)]
    if not stale:
        return None
    figure, axes = _axes(3.2)
    width = 0.8 / len(stale)
    for number, plan in enumerate(stale):
        total = sum(plan.staleness.values())
        x = [value + (number - (len(stale) - 1) / 2) * width for value in plan.staleness]
        axes.bar(x, [count / total for count in plan.staleness.values()], width, label=plan.name)
    axes.set(xlabel="staleness (versions between reading and applying)", ylabel="share of contributions")
    axes.legend(fontsize=8)
    return figure
