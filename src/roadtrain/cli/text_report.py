"""A finished run as a person reads it: its table and its sample, on stdout."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from roadtrain.report import Report


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
    if report.diverged:
        shown.append(("commits repeated to other bits", str(report.diverged)))
    if report.refused:
        shown.append(("contributions refused", str(report.refused)))
    return shown


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
