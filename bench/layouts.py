"""Memory of one worker in each layout: parameters, gradients and optimizer state, beside 1/N of one device's; and the peak.

    python bench/layouts.py [--layers 8] [--width 512] [--layout fsdp:2 fsdp:4 ...]

Runs `roadtrain run gpt` with AdamW for three steps in every layout. The peak is the process's: torch and the whole model at
the start are part of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from roadtrain.plan import LayoutSpec

LAYOUTS = ("fsdp:2", "fsdp:4", "zero2:4", "zero1:4", "tp:4", "pp:4", "dp:2,fsdp:2", "pp:2,tp:2")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layout", nargs="+", default=LAYOUTS)
    given = parser.parse_args()
    alone = held(given, "dp:1")
    whole = max(worker["state_bytes"] for worker in alone["workers"])
    print(
        f"gpt, {given.layers} layers of width {given.width}, AdamW, fp32; one device holds {whole / 1e6:.1f} MB of state"
    )
    print(f"{'layout':14} {'workers':>7} {'state MB':>9} {'share':>7} {'1/N':>7} {'peak MB':>8}")
    for layout in ("dp:1", *given.layout):
        size = LayoutSpec.parse(layout).size
        workers = (alone if layout == "dp:1" else held(given, layout))["workers"]
        state = max(worker["state_bytes"] for worker in workers)
        peak = max(worker["peak_memory_bytes"] for worker in workers)
        row = f"{layout:14} {size:7} {state / 1e6:9.1f} {state / whole:7.1%} {1 / size:7.1%} {peak / 1e6:8.0f}"
        print(row, flush=True)


def held(given: argparse.Namespace, layout: str) -> dict[str, Any]:
    """The report of a run in `layout`."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["run", "gpt", "--steps", 3, "--batch", 4, "--context", 32, "--layers", given.layers, "--heads", 8]
        words += ["--width", given.width, "--workers", LayoutSpec.parse(layout).size, "--layout", layout]
        program = Path(sys.executable).with_name("roadtrain")
        line = [str(program), *map(str, words), "--out", f"{folder}/run", "--json"]
        return json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout)


if __name__ == "__main__":
    main()
