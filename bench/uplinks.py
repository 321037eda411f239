"""Ownership by measured uplinks: seconds of a round with equal shares, and with those that follow what lines carry.

    bench/uplinks.py [--steps N] [--wanlab PATH]

Three homes (20 Mbit/s up, 100 down) and a host at 1 Gbit/s, 10 ms one way, train `gpt` of about 10 M parameters by `ssgd`, whose
round is one step. With equal shares nothing is ever worth a move. Of the other run the rounds count that begin when the last
fragment has moved. Needs root and wanlab.
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
from itertools import pairwise
from pathlib import Path
from typing import Any

RUN = "from roadtrain.membership import moves; moves.WORTH = {}; from roadtrain.cli.main import main; raise SystemExit(main())"
MODEL = ("--layers", "8", "--width", "320", "--heads", "8", "--context", "64", "--batch", "1", "--seed", "1")
HOME, HOST = {"up": "20mbit", "down": "100mbit"}, {"up": "1gbit", "down": "1gbit"}
LAB = {
    "regions": {"home": {"hosts": 3, "link": {"delay": "10ms"}}, "host": {"hosts": 1, "link": {"delay": "10ms"}}},
    "links": [{"between": ["home", "host"], "delay": "10ms"}],
    "hosts": {"home0": HOME, "home1": HOME, "home2": HOME, "host0": HOST},
}


def train(given: argparse.Namespace, worth: float) -> tuple[list[dict[str, Any]], list[float]]:
    """Events of a run over such lines, and when its first home had come to the end of each step."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ROADTRAIN_TOKEN": "a secret of this benchmark"}
    with tempfile.TemporaryDirectory(prefix="roadtrain-bench-") as folder:
        lab, out = Path(folder, "lab.json"), Path(folder, "run")
        lab.write_text(json.dumps(LAB))
        command = [given.wanlab, "run", "--topology", str(lab), "--torch", "--timeout", "1500", "--", sys.executable]
        command += ["-c", RUN.format(worth), "run", "gpt", *MODEL, "--steps", str(given.steps), "--out", str(out)]
        command += ["--log-every", "1", "--validate-every", "0"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1600, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        events, metrics = (
            [json.loads(line) for line in Path(out, f"{name}.jsonl").read_text().splitlines()]
            for name in ("events", "metrics")
        )
    return events, [each["time_s"] for each in metrics if each["worker"] == "w0"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--wanlab", default=os.environ.get("WANLAB") or shutil.which("wanlab"))
    given = parser.parse_args()
    if given.wanlab is None or os.geteuid() != 0:
        raise SystemExit("this needs root, and wanlab (--wanlab PATH or WANLAB)")
    rounds: dict[str, list[float]] = {}
    for name, worth in (("equal", 0.0), ("measured", 0.75)):
        events, ends = train(given, worth)
        moved = [event["time_s"] for event in events if event["event"] == "moved"]
        print([event for event in events if event["event"] in ("shares", "moved")], file=sys.stderr)
        since = max(moved, default=ends[0])
        rounds[name] = [after - before for before, after in pairwise(ends) if before >= since]
        print(f"{name}: {' '.join(f'{end:.0f}' for end in ends)}; {rounds[name]}", file=sys.stderr)
    base = statistics.median(rounds["equal"])
    print("| shares | rounds | s/round | of equal shares |\n|---|---|---|---|")
    for name, found in rounds.items():
        middle = statistics.median(found)
        print(f"| {name} | {len(found)} | {middle:.1f} | {middle / base:.2f} |")


if __name__ == "__main__":
    main()
