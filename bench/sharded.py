"""ZeRO-3 over a wide-area link: torch's own collectives against packed ones, side by side.

    bench/sharded.py [--steps 12] [--repeats 3] [--rate 100mbit] [--delay 25ms] [--wanlab PATH]

Four hosts hold one replica of `gpt` (about 10 M parameters) in shards, `--layout fsdp:4`. Needs root and wanlab. Losses
are of the held-out text after the same samples; bytes are those that the kernel counted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROADTRAIN = str(Path(sys.executable).with_name("roadtrain"))
HOSTS = 4
MODEL = ("--layers", "8", "--width", "320", "--heads", "8", "--context", "64", "--batch", "6", "--seed", "1")
PLANS = {
    "torch's collectives": (),
    "int8 parameters, int8 gradients": ("--gather-codec", "int8", "--reduce-codec", "int8"),
    "int8 parameters, int4 gradients": ("--gather-codec", "int8", "--reduce-codec", "int4"),
}


def train(given: argparse.Namespace, flags: tuple[str, ...]) -> dict[str, Any]:
    """The report of a run over emulated links."""
    link = ("--rate", given.rate, "--delay", given.delay)
    lab = (given.wanlab, "run", "--hosts", str(HOSTS), *link, "--torch", "--timeout", "900", "--")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ROADTRAIN_TOKEN": "a secret of this benchmark"}
    with tempfile.TemporaryDirectory(prefix="roadtrain-bench-") as folder:
        out = ("--steps", str(given.steps), "--layout", f"fsdp:{HOSTS}", "--out", f"{folder}/run")
        command = [*lab, ROADTRAIN, "run", "gpt", *MODEL, *out, *flags]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1000, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return json.loads(Path(folder, "run", "report.json").read_text())


def step_s(report: dict[str, Any]) -> float:
    """Seconds of a step, all waiting included."""
    return statistics.fmean((w["compute_s"] + w["sync_wait_s"]) / w["steps"] for w in report["workers"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rate", default="100mbit")
    parser.add_argument("--delay", default="25ms")
    parser.add_argument("--wanlab", default=os.environ.get("WANLAB") or shutil.which("wanlab"))
    given = parser.parse_args()
    if given.wanlab is None or os.geteuid() != 0:
        raise SystemExit("this needs root, and wanlab (--wanlab PATH or WANLAB)")
    print(f"gpt, {' '.join(MODEL)}, fsdp:{HOSTS}, {given.rate}, {given.delay}; medians of {given.repeats}\n")
    print("| collectives | MB/step | fewer | s/step | faster | validation loss |\n|---|---|---|---|---|---|")
    runs: dict[str, list[dict[str, Any]]] = {plan: [] for plan in PLANS}
    for _ in range(given.repeats):
        for plan, flags in PLANS.items():
            runs[plan].append(train(given, flags))
    base_bytes, base_s = 0.0, 0.0
    for plan, reports in runs.items():
        sent = statistics.median(r["bytes"]["sent"] for r in reports) / given.steps
        taken = statistics.median(map(step_s, reports))
        loss = statistics.median(r["val_loss"] for r in reports)
        base_bytes, base_s = base_bytes or sent, base_s or taken
        cells = (
            f"{sent / 1e6:.1f}",
            f"{base_bytes / sent:.2f}x",
            f"{taken:.2f}",
            f"{base_s / taken:.2f}x",
            f"{loss:.3f}",
        )
        print(f"| {plan} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
