"""A finished run as a person reads it: what the model writes, a table, and what to do next, on stdout."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from shlex import quote

from rich.console import Console
from rich.table import Table

from roadtrain.checkpoint.folder import MODEL
from roadtrain.plan import Target
from roadtrain.report import Report

UNITS = ("bytes", "kB", "MB", "GB", "TB")


def show(report: Report, note: str = "") -> None:
    """The sample, table, and a note on it; where the weights are and how to go on."""
    console = Console(highlight=False)
    if report.sample:
        after = f" after {report.prompt!r}" if report.prompt else ""
        console.print(f"what the trained model writes{after}:", style="bold", markup=False, soft_wrap=True)
        written = report.sample.removeprefix(report.prompt or "")
        console.print(printable(written), markup=False, soft_wrap=True)
    table = Table(title=f"{report.recipe}: {report.status}", show_header=False)
    for name, value in rows(report):
        table.add_row(name, value)
    console.print(table)
    if note:
        console.print(note)
    console.print(f"run folder {report.folder}", markup=False, soft_wrap=True)
    for line in next_steps(report):
        console.print(line, markup=False, soft_wrap=True)


def next_steps(report: Report) -> list[str]:
    """What a person does with a run that has ended."""
    folder = Path(report.folder)
    if report.status != "finished" or not (folder / MODEL).exists():
        return []
    lines = [f"weights    {folder / MODEL} (safetensors.torch.load_file)"]
    if not Target.parse(report.recipe).is_script:  # which says itself how long it trains
        steps = 2 * int(report.plan["job"]["steps"])
        lines.append(f"train on   roadtrain run --resume {quote(str(folder))} --steps {steps}")
    return lines


def printable(text: str) -> str:
    """`text` with what would drive a terminal (control characters) or not be seen written out, as \\x1b."""
    return "".join(letter if _is_seen(letter) else letter.encode("unicode_escape").decode() for letter in text)


def _is_seen(letter: str) -> bool:
    return letter in "\n\t" or unicodedata.category(letter)[0] != "C"


def rows(report: Report) -> list[tuple[str, str]]:
    """The report in a dozen lines."""
    return [*_learned(report), *_speed(report), *_traffic(report), *_incidents(report)]


def _learned(report: Report) -> list[tuple[str, str]]:
    shown = [("train loss", _number(report.train_loss)), ("validation loss", _number(report.val_loss))]
    for name, value in report.metrics.items():
        shown.append((f"validation {name}", f"{value:.1%}" if name == "accuracy" else _number(value)))
    done = sorted({worker.steps for worker in report.workers})
    each = f"{done[0]:,}" if len(done) == 1 else f"{done[0]:,} to {done[-1]:,}" if done else "0"
    workers = len(report.workers)
    return [*shown, ("steps", each if workers < 2 else f"{each} by each of {workers} workers")]


def _speed(report: Report) -> list[tuple[str, str]]:
    unit, rate = "tokens", report.throughput.tokens_per_s
    if not report.tokens:
        unit, rate = "samples", report.throughput.samples_per_s
    if not report.steps:  # gone on with when it had ended
        return [("time", f"{report.wall_s:,.1f} s")]
    training = f", {report.training_s:,.1f} s of it training" if rate else ""
    return [
        ("time", f"{report.wall_s:,.1f} s{training}"),
        (f"{unit} per second of training", f"{rate:,.0f}" if rate >= 100 else f"{rate:,.1f}"),
        ("utilisation", f"{report.utilisation:.1%} of training is computing"),
        *([("what slows it", report.bottleneck)] if report.bottleneck else []),
    ]


def _traffic(report: Report) -> list[tuple[str, str]]:
    sent = report.bytes
    shown = [("sent", size(sent.sent))]
    if 0 < sent.inside < sent.sent:
        shown = [("sent between regions", size(sent.sent - sent.inside)), ("sent inside regions", size(sent.inside))]
    elif sent.sent and sent.uncompressed and not sent.inside:
        shown.append(("against fp32 every step", times(sent.uncompressed / sent.sent)))
    if report.staleness.max:
        stale = report.staleness
        shown.append(("staleness mean / p95 / max", f"{stale.mean:.2f} / {stale.p95:.0f} / {stale.max}"))
    return shown


def _incidents(report: Report) -> list[tuple[str, str]]:
    shown: list[tuple[str, str]] = []
    if report.events.lost:
        shown.append(("workers lost", f"{report.events.lost} ({report.events.handoffs} fragments handed over)"))
    if report.diverged:
        shown.append(("commits repeated to other bits", str(report.diverged)))
    if report.refused:
        shown.append(("contributions refused", str(report.refused)))
    return shown


def size(count: float) -> str:
    """A number of bytes in the unit that suits it."""
    for unit in UNITS:
        if count < 1000 or unit == UNITS[-1]:
            return f"{count:,.0f} {unit}" if unit == UNITS[0] else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError("the last unit suits any number")


def times(ratio: float) -> str:
    """How many times fewer, or more where it is below 1."""
    if 0.95 < ratio < 1.05:
        return "as many bytes"
    return f"{ratio:,.1f} times fewer bytes" if ratio > 1 else f"{1 / ratio:,.1f} times more bytes"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
