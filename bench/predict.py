"""The simulator against the road: what `roadtrain simulate` predicts, and what the same plan does over emulated links.

    bench/predict.py [--repeats 3] [--wanlab PATH]

Twelve plans (3 strategies x 2 codecs x 2 links) with four hosts; needs root and wanlab. The simulator is told the links and the
seconds of compute of a step, as measured in the real run; it predicts bytes and the seconds of a step with all waiting.
"""

from __future__ import annotations

import argparse
import itertools
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
from typing import Any

ROADTRAIN = str(Path(sys.executable).with_name("roadtrain"))
HOSTS = 4
MODEL = ("--layers", "4", "--width", "192", "--heads", "6", "--context", "64", "--batch", "4")
STRATEGIES = {"ssgd": 12, "ssp:2": 12, "diloco:10": 40}
"""With how many steps each is run."""
CODECS = ("none", "int8")
LINKS = (("100mbit", "25ms"), ("20mbit", "10ms"))
PAYLOAD = 1448 / 1514
"""Part of an Ethernet frame's bytes that TCP carries for us: the emulated rate counts whole frames."""


@dataclass(frozen=True)
class Figures:
    """Of all workers: bytes sent, and seconds of a step, of which `compute_s` without waiting."""

    sent: float
    step_s: float
    compute_s: float

    @classmethod
    def of(cls, report: dict[str, Any]) -> Figures:
        """From a report."""
        workers = report["workers"]
        compute_s = statistics.fmean(worker["compute_s"] / worker["steps"] for worker in workers)
        wait_s = statistics.fmean(worker["sync_wait_s"] / worker["steps"] for worker in workers)
        return cls(report["bytes"]["sent"], compute_s + wait_s, compute_s)


def real(wanlab: str, plan: Sequence[str], rate: str, delay: str, folder: Path) -> Figures:
    """The plan over emulated links."""
    lab = (wanlab, "run", "--hosts", str(HOSTS), "--rate", rate, "--delay", delay, "--torch", "--timeout", "600", "--")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ROADTRAIN_TOKEN": "a secret of this benchmark"}
    _run([*lab, ROADTRAIN, "run", "gpt", *plan, "--out", str(folder)], environment)
    return Figures.of(json.loads((folder / "report.json").read_text()))


def predicted(plan: Sequence[str], rate: str, delay: str, compute_s: float, folder: Path) -> Figures:
    """The plan on the virtual clock."""
    topology = folder.with_suffix(".toml")
    names = [f"host{number}" for number in range(HOSTS)]
    bytes_per_s = float(rate.removesuffix("mbit")) * 1e6 * PAYLOAD
    regions = [f'[[region]]\nname = "{name}"\nworkers = 1\nlink = "unlimited/0ms"\n' for name in names]
    pairs = [
        f'[[between]]\nregions = ["{one}", "{other}"]\nlink = "{bytes_per_s / 1e6:.3f}mbit/{delay}"\n'
        for one, other in itertools.combinations(names, 2)
    ]
    topology.write_text("\n".join([*regions, *pairs]))
    flags = ("--cost-only", "--topology", str(topology), "--step-time", f"{compute_s:.4f}")
    _run([ROADTRAIN, "simulate", "gpt", *plan, *flags, "--out", str(folder)], dict(os.environ))
    return Figures.of(json.loads((folder / "report.json").read_text()))


def _run(command: Sequence[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--wanlab", default=os.environ.get("WANLAB") or shutil.which("wanlab"))
    given = parser.parse_args()
    if given.wanlab is None or os.geteuid() != 0:
        raise SystemExit("the real runs need root, and wanlab (--wanlab PATH or WANLAB)")
    print(f"gpt, {' '.join(MODEL)}, {HOSTS} hosts; medians of {given.repeats}\n")
    print(
        "| plan | codec | link | bytes sent | predicted | off | s/step | predicted | off |\n|---|---|---|---|---|---|---|---|---|"
    )
    misses: list[tuple[float, float]] = []
    for (strategy, steps), codec, (rate, delay) in itertools.product(STRATEGIES.items(), CODECS, LINKS):
        plan = (*MODEL, "--codec", codec, "--sync", strategy, "--steps", str(steps))
        pairs: list[tuple[Figures, Figures]] = []
        for _ in range(given.repeats):
            with tempfile.TemporaryDirectory(prefix="roadtrain-bench-") as folder:
                seen = real(given.wanlab, plan, rate, delay, Path(folder) / "real")
                pairs.append((seen, predicted(plan, rate, delay, seen.compute_s, Path(folder) / "virtual")))
        sent, foretold = (statistics.median(pair[side].sent for pair in pairs) for side in (0, 1))
        step_s, step_foretold = (statistics.median(pair[side].step_s for pair in pairs) for side in (0, 1))
        misses.append((foretold / sent - 1, step_foretold / step_s - 1))
        print(
            f"| {strategy} | {codec} | {rate}, {delay} | {sent / 1e6:.1f} MB | {foretold / 1e6:.1f} MB | {misses[-1][0]:+.1%} "
            f"| {step_s:.3f} | {step_foretold:.3f} | {misses[-1][1]:+.1%} |",
            flush=True,
        )
    for what, side in (("bytes", 0), ("seconds of a step", 1)):
        off = [abs(miss[side]) for miss in misses]
        print(f"\n{what}: off by {statistics.median(off):.1%} in the median, {max(off):.1%} at most")


if __name__ == "__main__":
    main()
