"""What a simulated event costs against the number of workers: ssgd on the gpt recipe, costs only, 100 Mbit/s and 25 ms.

Each row is a process of its own, so that its memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from roadtrain.launch.run_request import RunRequest
from roadtrain.launch.simulated_run import SimulatedRun
from roadtrain.plan import load

WORKERS = (10, 30, 100, 300, 1000)
EVENTS = 400_000
"""Events that a row should take, about: the rounds follow from it."""


def measure(workers: int, rounds: int) -> dict[str, float]:
    """Simulate; events, CPU seconds and the peak memory of this process in bytes."""
    flags: dict[tuple[str, str], object] = {
        ("job", "steps"): rounds,
        ("place", "workers"): workers,
        ("place", "link"): "100mbit/25ms",
        ("simulate", "cost_only"): True,
    }
    plan = load("gpt", None, {}, flags)
    with tempfile.TemporaryDirectory(prefix="roadtrain-bench-") as folder:
        order = RunRequest("bench", plan, Path(folder), resume=None)
        run = SimulatedRun(order)
        began = time.process_time()
        run.carry_out()
        took = time.process_time() - began
        run.store.close()
    unit = 1 if sys.platform == "darwin" else 1024
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    clock = run.simulation.clock
    return {"events": clock.steps, "cpu_s": took, "memory_bytes": memory, "virtual_s": clock.now}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, type=int, metavar=("WORKERS", "ROUNDS"), help="measure this, as JSON")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(*given.one)))
        return
    print("| workers | rounds | events | CPU s | us per event | memory MB | virtual s |\n|---|---|---|---|---|---|---|")
    for workers in WORKERS:
        rounds = max(5, EVENTS // (45 * workers))
        command = [sys.executable, __file__, "--one", str(workers), str(rounds)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout)
        cost = 1e6 * row["cpu_s"] / row["events"]
        cells = (f"{row['events']:,}", f"{row['cpu_s']:.1f}", f"{cost:.1f}", f"{row['memory_bytes'] / 1e6:.0f}")
        print(f"| {workers} | {rounds} | {' | '.join(cells)} | {row['virtual_s']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
