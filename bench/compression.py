"""What compression costs: validation loss against bytes, for codecs, strategies and both.

    bench/compression.py [--steps 1800] [--seeds 3] [--jobs 2] [--only WORD,...] [--out DIR] [--figure FILE]

Trains a small gpt on the virtual clock, with real gradients, under every plan below; equal tokens for all. Finished runs are kept
in DIR and not repeated, so it can be run in pieces (--only: plans whose name has one of these words).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROADTRAIN = str(Path(sys.executable).with_name("roadtrain"))
WORKERS, BATCH = 4, 32
JOB = ("--context", "64", "--log-every", "100")
SPREAD = ("--workers", str(WORKERS), "--batch", str(BATCH))
TOGETHER = ("--workers", "1", "--batch", str(WORKERS * BATCH))
"""ssgd in one process: all samples of a step in one gradient, which can be clipped; owners see parts of it."""
MODEL = ("--layers", "1", "--width", "32", "--heads", "2")
OPTIMIZER = ("--warmup", "200", "--lr-schedule", "cosine", "--weight-decay", "0.1")
PLAIN = ("--lr", "1.2e-2")
CLIPPED, LOCAL = ("--clip", "0.1", "--lr", "4e-2"), ("--clip", "0.1", "--lr", "5e-2")
"""The best of the learning rates tried with seed 0: what is not averaged before Adam sees it wants larger steps."""
CODECS = {
    "": (),
    "int8": ("--codec", "int8"),
    "int4": ("--codec", "int4"),
    "topk:0.1+int8": ("--codec", "topk:0.1+int8", "--codec-down", "int8"),
    "topk:0.2+int8": ("--codec", "topk:0.2+int8", "--codec-down", "int8"),
}
REFERENCE = "ssgd, clipped"


@dataclass(frozen=True)
class Row:
    """One plan. `against`: the row of the same strategy without a codec. `sends`: the row that has its bytes, where its run is
    one process and sends none."""

    name: str
    flags: tuple[str, ...]
    against: str = ""
    sends: str = ""


def rows() -> list[Row]:
    """All plans, in the order of the tables."""
    found = [Row(REFERENCE, (*TOGETHER, "--sync", "ssgd", *CLIPPED), sends="ssgd")]
    for codec, flags in CODECS.items():
        found.append(Row(f"ssgd {codec}".strip(), (*SPREAD, "--sync", "ssgd", *PLAIN, *flags), "ssgd"))
    for codec, flags in CODECS.items():
        plain = (*SPREAD, "--sync", "diloco:10", *LOCAL)
        found.append(Row(f"diloco:10 {codec}".strip(), (*plain, *flags), "diloco:10"))
    for period in (20, 67):
        flags = (*SPREAD, "--sync", f"diloco:{period}", *LOCAL, *CODECS["int4"])
        found.append(Row(f"diloco:{period} int4", flags))
    return found


@dataclass(frozen=True)
class Outcome:
    """The runs of one plan, by seed. `sent_mb`: MB that a worker sent. `ratio`: how many times less than fp32 every-step SSGD."""

    row: Row
    losses: tuple[float, ...]
    sent_mb: float
    ratio: float

    @classmethod
    def of(cls, row: Row, reports: Sequence[dict[str, Any]], sending: Sequence[dict[str, Any]]) -> Outcome:
        """From the reports of the runs, and of those that say what they send."""
        sent = statistics.fmean(report["bytes"]["sent"] for report in sending)
        uncompressed = statistics.fmean(report["bytes"]["uncompressed"] for report in sending)
        return cls(row, tuple(report["val_loss"] for report in reports), sent / WORKERS / 1e6, uncompressed / sent)

    def cost(self, other: Outcome) -> tuple[float, float]:
        """How much more loss than `other`, seed by seed: the mean as a share, and half of what lies between the extremes."""
        shares = [mine / others - 1 for mine, others in zip(self.losses, other.losses, strict=True)]
        return statistics.fmean(shares), (max(shares) - min(shares)) / 2


def run(row: Row, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """One run's report, from the folder if it has been run before."""
    out = folder / f"{row.name} steps {steps} seed {seed}".replace(" ", "-").replace(",", "")
    if not (out / "report.json").exists():
        lasting = ("--steps", str(steps), "--seed", str(seed))
        command = [ROADTRAIN, "simulate", "gpt", *JOB, *MODEL, *OPTIMIZER, *row.flags, *lasting, "--json"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, "--out", str(out)], capture_output=True, text=True, env=environment, check=False
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
        print(f"  {row.name}, seed {seed}: {json.loads(done.stdout)['val_loss']:.4f}", file=sys.stderr, flush=True)
    return json.loads((out / "report.json").read_text())


def table(outcomes: Sequence[Outcome], against: dict[str, Outcome], other: str) -> None:
    """Print rows of the loss, what it costs against another row, and bytes. `other`: what stands above the cost."""
    print(f"\n| plan | validation loss | {other} | MB sent a worker | times fewer bytes |\n|---|---|---|---|---|")
    for outcome in outcomes:
        loss, cost = f"{statistics.fmean(outcome.losses):.4f}", outcome.cost(against[outcome.row.name])
        words = [loss, f"{cost[0]:+.1%}"]
        if len(outcome.losses) > 1:
            words = [f"{loss} ±{(max(outcome.losses) - min(outcome.losses)) / 2:.4f}", f"{cost[0]:+.1%} ±{cost[1]:.1%}"]
        print(f"| {outcome.row.name} | {words[0]} | {words[1]} | {outcome.sent_mb:,.2f} | {outcome.ratio:,.1f}x |")


def draw(outcomes: Sequence[Outcome], file: Path) -> None:
    """Loss against bytes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for outcome in outcomes:
        mean = statistics.fmean(outcome.losses)
        around = [[mean - min(outcome.losses)], [max(outcome.losses) - mean]]
        axes.errorbar(outcome.ratio, mean, around, fmt="o", capsize=3)
        axes.annotate(outcome.row.name, (outcome.ratio, mean), (4, 4), textcoords="offset points", fontsize=7)
    axes.set(
        xscale="log", xlabel="times fewer bytes than fp32 SSGD at every step", ylabel="validation loss (nats a byte)"
    )
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110)


def main() -> None:
    """Run what has not been run, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, with one thread each")
    parser.add_argument("--only", default="", help="only plans whose name has one of these words (comma)")
    parser.add_argument("--out", type=Path, default=Path("runs/compression"))
    parser.add_argument("--figure", type=Path, help="write a PNG of loss against bytes")
    given = parser.parse_args()
    words = [word for word in given.only.split(",") if word]
    chosen = [row for row in rows() if not words or any(word in row.name for word in words)]
    wanted = [(row, seed) for seed in range(given.seeds) for row in chosen]
    with ThreadPoolExecutor(given.jobs) as pool:
        reports = list(pool.map(lambda each: run(each[0], each[1], given.steps, given.out), wanted))
    of_row: dict[str, list[dict[str, Any]]] = {row.name: [] for row in chosen}
    for (row, _), report in zip(wanted, reports, strict=True):
        of_row[row.name].append(report)
    if not {name for row in chosen for name in (row.against, row.sends) if name} | {REFERENCE} <= of_row.keys():
        return  # a piece: what it is compared with has not been run in this one
    outcomes = [Outcome.of(row, of_row[row.name], of_row[row.sends or row.name]) for row in chosen]
    by_name = {outcome.row.name: outcome for outcome in outcomes}
    print(
        f"gpt, {given.steps} steps, {' '.join((*JOB, *MODEL, *OPTIMIZER))}; {given.seeds} seeds: mean, and half of the range"
    )
    own = [outcome for outcome in outcomes if outcome.row.against]
    table(own, {outcome.row.name: by_name[outcome.row.against] for outcome in own}, "against uncompressed")
    table(
        sorted(outcomes, key=lambda outcome: outcome.ratio),
        dict.fromkeys(by_name, by_name[REFERENCE]),
        f"against {REFERENCE}",
    )
    if given.figure is not None:
        draw(outcomes, given.figure)


if __name__ == "__main__":
    main()
