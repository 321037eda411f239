"""Plans side by side in one run: plain torchrun DDP against `roadtrain run`, on loopback and over emulated wide-area links.

    bench/strategies.py [--repeats N] [--only loopback|wan|home] [--wanlab PATH]

The wide-area part needs root and wanlab (4 hosts, 100 Mbit/s and 25 ms one way on every link). How many samples compute for
0.6 s, with four workers on this machine's cores, is measured first: the same links are slow to a fast machine.
Links per pair flatter whoever talks to all; of home lines (`home`) each host has one up and one down, for all that it says to
whomever. There a step's 0.6 s are slept, so that four workers do not share this machine's cores.
Runs of one repeat follow each other, so that a machine that slows down slows all of them; the table shows medians, and against
DDP the median of each repeat's own ratio. Model, data, seed and global batch are equal.
On loopback a difference of hundredths is looked for where one run differs from the next by tenths: hence more repeats.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PYTHON = sys.executable
ROADTRAIN = str(Path(PYTHON).with_name("roadtrain"))
LINK_BYTES_PER_S = 100e6 / 8
COMPUTE_S = 0.6
"""Of a step on the wide-area links."""


@dataclass(frozen=True)
class Row:
    """One plan. `flags` None: plain DDP. `steps` on the wide-area links, where plans differ a hundredfold in speed."""

    name: str
    flags: tuple[str, ...] | None
    steps: int


ROWS = (
    Row("plain DDP (torchrun, Gloo)", None, 6),
    Row("ssgd:allreduce", ("--sync", "ssgd:allreduce"), 6),
    Row("ssgd sharded", ("--sync", "ssgd"), 12),
    Row("ssgd sharded int8", ("--sync", "ssgd", "--codec", "int8"), 16),
    Row("diloco:20", ("--sync", "diloco:20"), 60),
    Row("diloco:20 int8", ("--sync", "diloco:20", "--codec", "int8"), 120),
    Row("diloco:20 int4", ("--sync", "diloco:20", "--codec", "int4"), 60),
    Row("streaming:20 int4", ("--sync", "streaming:20", "--codec", "int4"), 600),
    Row("diloco:50 int8", ("--sync", "diloco:50", "--codec", "int8"), 200),
)


HOME_ROWS = (
    Row("diloco:50 int8", ("--sync", "diloco:50", "--codec", "int8"), 200),
    Row("streaming:50 int4", ("--sync", "streaming:50", "--codec", "int4"), 400),
)
"""What docs/strategies.md recommends for such lines."""
HOME_LINES = (("100mbit", "100mbit", "25ms"), ("20mbit", "100mbit", "25ms"), ("10mbit", "50mbit", "50ms"))
"""Up, down, and one way between two."""


@dataclass(frozen=True)
class Setup:
    """Where the rows are run. `repeats`: unless said otherwise. `launcher` runs a command on every host or rank. `flags`: of all
    rows. `per_pair`: every two hosts have a link of their own, whose share can be told."""

    title: str
    model: dict[str, int]
    workers: int
    steps: int | None
    repeats: int
    launcher: tuple[str, ...]
    flags: tuple[str, ...] = ()
    per_pair: bool = True


def loopback() -> Setup:
    """Two workers on this machine."""
    model = {"layers": 4, "width": 192, "heads": 6, "context": 128, "batch": 8}
    launcher = (PYTHON, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "--no-python")
    return Setup("loopback, 2 workers", model, 2, 100, 7, launcher)


WIDE_MODEL = {"layers": 8, "width": 320, "heads": 8, "context": 64}
"""About 10 M parameters."""


def batch_for(compute_s: float) -> int:
    """The most samples that one worker's step computes within `compute_s`, where four share this machine."""
    tried = 6
    flags = [f"--{name}={value}" for name, value in WIDE_MODEL.items()] + ["--workers=4"]
    with tempfile.TemporaryDirectory(prefix="roadtrain-bench-") as folder:
        out = Path(folder) / "run"
        command = [ROADTRAIN, "run", "gpt", *flags, f"--batch={tried}", "--steps=20", "--sync=localsgd:10"]
        _output([*command, "--out", str(out)])
        workers = json.loads((out / "report.json").read_text())["workers"]
    took = statistics.fmean(worker["compute_s"] / worker["steps"] for worker in workers)
    return max(1, int(tried * compute_s / took))


def wide_area(wanlab: str, batch: int) -> Setup:
    """Four hosts with home-like links."""
    model = {**WIDE_MODEL, "batch": batch}
    launcher = (
        wanlab,
        "run",
        "--hosts",
        "4",
        "--rate",
        "100mbit",
        "--delay",
        "25ms",
        "--torch",
        "--timeout",
        "900",
        "--",
    )
    return Setup("4 hosts, 100 Mbit/s, 25 ms one way", model, 4, None, 3, launcher)


def home(wanlab: str, up: str, down: str, delay: str) -> Setup:
    """Four hosts, each behind a home line, whose steps sleep."""
    lines = ("--up", up, "--down", down, "--delay", delay)
    launcher = (wanlab, "run", "--hosts", "4", *lines, "--torch", "--timeout", "900", "--")
    title = f"4 hosts, each {up} up and {down} down, {delay} one way"
    slept = ("--straggler", *(f"worker={worker},base={COMPUTE_S}" for worker in range(4)))
    flags = (*slept, "--validate-every=0")  # the others would wait for the first one's looks, whatever the line
    return Setup(title, {**WIDE_MODEL, "batch": 1}, 4, None, 1, launcher, flags, per_pair=False)


def run(setup: Setup, row: Row, folder: Path) -> dict[str, float]:
    """One run's figures."""
    steps = setup.steps or row.steps
    flags = [f"--{name}={value}" for name, value in setup.model.items()] + [f"--steps={steps}"]
    if row.flags is None:
        command = [*setup.launcher, PYTHON, str(HERE / "ddp.py"), *flags]
        lines = _output(command)
        found = json.loads(next(line[line.index("{") :] for line in lines if "tokens_per_s" in line))
        return {
            "tokens_per_s": found["tokens_per_s"],
            "step_s": found["step_s"],
            "bytes_per_token": found["bytes_sent"] * (setup.workers if setup.steps is None else 1) / found["tokens"],
            "loss": found["val_loss"],
        }
    _output([*setup.launcher, ROADTRAIN, "run", "gpt", *flags, *row.flags, *setup.flags, "--out", str(folder)])
    report = json.loads((folder / "report.json").read_text())
    step_s = statistics.fmean((w["compute_s"] + w["sync_wait_s"]) / w["steps"] for w in report["workers"])
    compute_s = statistics.fmean(w["compute_s"] / w["steps"] for w in report["workers"])
    received = sum(w["receiving_bytes"] for w in report["workers"])
    receiving_s = sum(w["receiving_s"] for w in report["workers"])  # by link: each worker's peers add up
    return {
        "tokens_per_s": report["throughput"]["tokens_per_s"],
        "step_s": step_s,
        "compute_s": compute_s,
        "utilisation": report["utilisation"],
        "bytes_per_token": report["bytes"]["sent"] / report["tokens"],
        "loss": report["val_loss"],
        "link_share": received / receiving_s / LINK_BYTES_PER_S if receiving_s else 0.0,
    }


def bare_tcp(wanlab: str) -> float:
    """Share of the links' rate that one TCP flow on every link reaches, all at once: the bound for everything above."""
    sys.path.insert(0, str(Path(wanlab).resolve().parent))
    lab = importlib.import_module("wanlab")  # the rig's own Python interface lies beside its command

    pairs = [(one, other) for one in range(4) for other in range(4) if one != other]
    with lab.Lab(hosts=4, rate="100mbit", delay="25ms") as hosts:
        rates = lab.tcp_rate(hosts, pairs, warm=1, secs=5)
    return statistics.fmean(rates) / (8 * LINK_BYTES_PER_S)


def _output(command: Sequence[str]) -> list[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ROADTRAIN_TOKEN": "a secret of this benchmark"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1200, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout.splitlines()


def table(setup: Setup, rows: Sequence[Row], repeats: int) -> None:
    """Run all rows `repeats` times, in turn, and print medians."""
    figures: dict[str, list[dict[str, float]]] = {row.name: [] for row in rows}
    for repeat in range(repeats):
        order = rows if repeat % 2 == 0 else rows[::-1]  # a machine that slows down all the while favours neither end
        for row in order:
            with tempfile.TemporaryDirectory(prefix="roadtrain-bench-") as folder:
                figures[row.name].append(run(setup, row, Path(folder) / "run"))
            print(f"  {repeat + 1}/{repeats} {row.name}: {figures[row.name][-1]}", file=sys.stderr)
    size = ", ".join(f"{name} {value}" for name, value in setup.model.items())
    print(f"\n### {setup.title}\n\ngpt, {size} a worker; medians of {repeats}\n")
    print(
        "| plan | steps | tokens/s | against DDP | s/step | compute s/step | utilisation | bytes/token | share of link | loss |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    base = figures[rows[0].name]
    for row in rows:
        found = figures[row.name]
        ratio = statistics.median(r["tokens_per_s"] / b["tokens_per_s"] for r, b in zip(found, base, strict=True))
        against = f"{ratio:.2f}x" if rows[0].flags is None else "-"
        cells = [row.name, str(setup.steps or row.steps), f"{_median(found, 'tokens_per_s'):,.0f}", against]
        for name, form in (
            ("step_s", ".2f"),
            ("compute_s", ".2f"),
            ("utilisation", ".1%"),
            ("bytes_per_token", ",.0f"),
            ("link_share", ".0%" if setup.steps is None and setup.per_pair else ""),
            ("loss", ".3f" if setup.steps else ""),
        ):
            value = _median(found, name)
            cells.append(format(value, form) if value is not None and form else "-")
        print("| " + " | ".join(cells) + " |")


def _median(found: Sequence[dict[str, float]], name: str) -> float | None:
    values = [figures[name] for figures in found if name in figures]
    return statistics.median(values) if values else None


def _named(rows: Sequence[Row], words: Sequence[str]) -> list[Row]:
    """Plain DDP, and the rows with one of these words in their names."""
    return [row for row in rows if row.flags is None or not words or any(word in row.name for word in words)]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, help="runs of every plan (default: on loopback 7, over the links 3)")
    parser.add_argument("--only", choices=("loopback", "wan", "home"))
    parser.add_argument("--wanlab", default=os.environ.get("WANLAB") or shutil.which("wanlab"))
    parser.add_argument("--batch", type=int, help=f"samples per worker over the links (default: for {COMPUTE_S} s)")
    parser.add_argument("--rows", default="", help="only plans whose name has one of these words (comma)")
    given = parser.parse_args()
    words = [word for word in given.rows.split(",") if word]
    rows, of_homes = _named(ROWS, words), _named(HOME_ROWS, words)
    if given.only in (None, "loopback"):
        here = loopback()
        table(here, rows, given.repeats or here.repeats)
    if given.only == "loopback":
        return
    if given.wanlab is None or os.geteuid() != 0:
        print("\nno wide-area table: it needs root, and wanlab (--wanlab PATH or WANLAB)", file=sys.stderr)
        return
    if given.only != "wan":
        for line in HOME_LINES:
            setup = home(given.wanlab, *line)
            table(setup, of_homes, given.repeats or setup.repeats)
    if given.only == "home":
        return
    wide = wide_area(given.wanlab, given.batch or batch_for(COMPUTE_S))
    repeats = given.repeats or wide.repeats
    table(wide, [row for row in rows if row.name != "ssgd:allreduce"], repeats)
    shares = [bare_tcp(given.wanlab) for _ in range(repeats)]
    print(
        f"\nBare TCP, one flow on each of the 12 links at once, for 5 s: {statistics.median(shares):.0%} of their rate"
    )


if __name__ == "__main__":
    main()
