"""An attached loop beside the same loop in plain PyTorch: one worker against no roadtrain, two against DistributedDataParallel.

    python bench/attached.py [--repeats 5]

Loopback, `gpt`'s model, AdamW. Every repeat runs all rows once, in turned order, and compares within itself: medians of ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

STEPS, WARMUP, BATCH, CONTEXT = 60, 10, 8, 128
ROWS = ("plain", "ssgd 1", "diloco:20 1", "ddp", "ssgd 2", "ssgd int8 2", "diloco:20 2")


def loop(how: str) -> None:
    """The loop itself: "plain", "ddp" (under torchrun) or a strategy to attach with. Prints seconds per step."""
    from torch.nn.functional import cross_entropy

    from roadtrain.recipes.transformer import VOCABULARY, Transformer

    rank = int(os.environ.get("RANK", 0))
    torch.manual_seed(0)
    model: torch.nn.Module = Transformer(4, 192, 6)
    if how == "ddp":
        torch.distributed.init_process_group("gloo")
        model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    sync = None
    if how not in ("plain", "ddp"):
        import roadtrain as rt

        sync = rt.attach(model, optimizer, sync=how)
    tokens = torch.randint(VOCABULARY, (BATCH, CONTEXT + 1), generator=torch.Generator().manual_seed(rank))
    began = 0.0
    for step in range(STEPS + WARMUP):
        if step == WARMUP:
            began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        logits = model(tokens[:, :-1])
        cross_entropy(logits.reshape(-1, VOCABULARY), tokens[:, 1:].reshape(-1)).backward()
        optimizer.step()
    took = (time.perf_counter() - began) / STEPS
    if sync is not None:
        sync.finish()
    if rank == 0:
        print(f"seconds {took}", flush=True)


def measured(row: str, folder: Path) -> float:
    """Seconds of a step of one row."""
    how, workers = row.split()[0], row.split()[-1]
    python, here = sys.executable, str(Path(__file__))
    threads = str(max(1, (os.cpu_count() or 1) // (2 if workers in ("2", "ddp") else 1)))
    if row == "plain":
        words = [python, here, "--loop", "plain"]
    elif row == "ddp":
        words = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", here, "--loop", "ddp"]
    else:
        codec = ["--codec", "int8"] if "int8" in row else []
        command = str(Path(python).with_name("roadtrain"))
        out = str(folder / f"{row.replace(' ', '-')}-{time.monotonic_ns()}")
        words = [command, "run", "--workers", workers, *codec, "--out", out, here, "--loop", how]
    done = subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": threads}, check=False
    )
    if done.returncode:
        raise SystemExit(f"{row}: {done.stderr.strip()[-400:]}")
    return float(done.stdout.split("seconds")[1].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", default=",".join(ROWS), help="those to run, with commas between them")
    parser.add_argument("--loop", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.loop:
        loop(given.loop)
        return
    rows = given.rows.split(",")
    took: dict[str, list[float]] = {row: [] for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(given.repeats):
            for row in rows[repeat % len(rows) :] + rows[: repeat % len(rows)]:
                took[row].append(measured(row, Path(folder)))
            print(f"repeat {repeat + 1} of {given.repeats}", file=sys.stderr)
    print("| loop | ms a step | against | ratio | repeat by repeat |\n|---|---|---|---|---|")
    for row, times in took.items():
        base = "plain" if row.endswith(" 1") or row == "plain" else "ddp"
        base = base if base in took else row
        ratios = [one / other for one, other in zip(took[base], times, strict=True)]
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"| {row} | {statistics.median(times) * 1e3:.1f} | {base} | {statistics.median(ratios):.2f} | {each} |")


if __name__ == "__main__":
    main()
