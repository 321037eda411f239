"""Every path of a GPU, tried on one: recipes in every strategy, an attached model, layouts that share it, one worker's speed.

    make check-gpu

Each row runs the command as a person would, on the GPU, and compares its loss with the same run on the CPU where the numbers
should be those of the CPU. The last rows time codecs, and one worker against a plain PyTorch loop. At most 8 minutes; exit 1 if a
row fails.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from roadtrain.codec import parse
from roadtrain.session.cpu_threads import use_threads

WITHIN_S = 8 * 60
"""The whole check."""
ROW_S = 90
"""One row."""
NEAR = 2e-3
"""Relative distance of two losses that are the same but for the order of sums."""
SMALL = ["--layers", "2", "--width", "128", "--heads", "4", "--context", "64", "--steps", "20", "--batch", "4"]
STRATEGIES = ("ssgd", "asgd", "ssp:2", "localsgd:5", "diloco:5", "streaming:5", "async-diloco:5", "ssgd:allreduce")
CODECS = ("fp16", "int8", "int4", "topk:0.1", "onebit", "powersgd:2")
CODED = 1 << 25
"""Values of the vector that codecs are timed on."""
ATTACHED = """
import sys, time, torch, roadtrain as rt
from torch import nn
how = sys.argv[1]
torch.manual_seed(0)
width, device = 1024, "cuda"
model = nn.Sequential(*(m for _ in range(6) for m in (nn.Linear(width, width), nn.GELU())), nn.Linear(width, 10)).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
x, y = torch.randn(512, width, device=device), torch.randint(10, (512,), device=device)
sync = None if how == "plain" else rt.attach(model, optimizer, sync=how)
for step in range(120):
    if step == 20:
        torch.cuda.synchronize()
        began = time.perf_counter()
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
torch.cuda.synchronize()
took = time.perf_counter() - began
if sync is not None:
    sync.finish()
print("per step", took / 100, "loss", float(loss))
"""


LARGE = {"layers": 14, "width": 864, "heads": 12, "context": 512}
"""About 125 million parameters."""
LARGE_BATCH, LARGE_STEPS, LARGE_FROM = 8, 80, 30
"""Samples of a step; steps, and those before which nothing is timed, as the model is compiled in them."""
PLAIN_LARGE = f"""
import time, torch
from roadtrain.plan import Job, Plan
from roadtrain.recipes import gpt
task = gpt.make(Plan(job=Job(target="gpt")), **{LARGE})
torch.manual_seed(0)
model = task.build().cuda()
model.compile()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
order = torch.randperm(len(task))
for step in range({LARGE_STEPS}):
    if step == {LARGE_FROM}:
        torch.cuda.synchronize()
        began = time.perf_counter()
    indices = order[step * {LARGE_BATCH} : (step + 1) * {LARGE_BATCH}]
    batch = tuple(part.to("cuda", non_blocking=True) for part in task.batch(indices))
    optimizer.zero_grad()
    with torch.autocast("cuda", torch.bfloat16):
        loss = task.loss(model, batch)
    loss.backward()
    optimizer.step()
torch.cuda.synchronize()
took = time.perf_counter() - began
tokens, peak = {(LARGE_STEPS - LARGE_FROM) * LARGE_BATCH * LARGE["context"]}, torch.cuda.max_memory_allocated()
print("tokens/s", tokens / took, "GB", peak / 1e9)
"""


def plain_large(folder: Path) -> tuple[float, float]:
    """Tokens per second and peak GB of a plain loop over the large model."""
    (folder / "large.py").write_text(PLAIN_LARGE)
    done = call([sys.executable, str(folder / "large.py")])
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    words = done.stdout.split()
    return float(words[1]), float(words[3])


def large(folder: Path, workers: str, *how: str) -> tuple[float, float]:
    """Tokens per second of all workers, and the most GB that one held, of `roadtrain run` on the large model."""
    out = folder / "-".join(("large", workers, *how)).replace(":", "-")
    size = [word for name, value in LARGE.items() for word in (f"--{name}", str(value))]
    words = ["run", "gpt", *size, "--steps", str(LARGE_STEPS), "--batch", str(LARGE_BATCH), "--workers", workers, *how]
    words += ["--precision", "bf16", "--compile", "--device", "cuda", "--log-every", "10", "--json", "--out", str(out)]
    done = call(command(*words))
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    report = json.loads(done.stdout)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rate = 0.0
    for worker in {line["worker"] for line in lines}:
        timed = [line for line in lines if line["worker"] == worker and line["step"] >= LARGE_FROM]
        rate += (timed[-1]["tokens"] - timed[0]["tokens"]) / (timed[-1]["time_s"] - timed[0]["time_s"])
    return rate, max(worker["peak_memory_bytes"] for worker in report["workers"]) / 1e9


def command(*words: str) -> list[str]:
    return [str(Path(sys.executable).with_name("roadtrain")), *words]


def call(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=ROW_S, check=False)


def val_loss(*words: str, device: str) -> float:
    """Of a run on `device`. Raises RuntimeError with its last words when it fails."""
    with tempfile.TemporaryDirectory() as out:
        done = call(command("run", "--device", device, "--out", f"{out}/run", "--json", *words))
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}")
    return float(json.loads(done.stdout)["val_loss"])


def compared(*words: str) -> str:
    """The losses of a run on the GPU and on the CPU. Raises RuntimeError where they are not the same."""
    here, there = (val_loss(*words, device=device) for device in ("cuda", "cpu"))
    if abs(here / there - 1) > NEAR:
        raise RuntimeError(f"loss {here:.4f} on the GPU, {there:.4f} on the CPU")
    return f"loss {here:.4f}, CPU {there:.4f}"


def learned(*words: str) -> str:
    """The loss of a run on the GPU whose order of updates is its own. Raises RuntimeError where it is no number."""
    loss = val_loss(*words, device="cuda")
    if not loss < 5.5:
        raise RuntimeError(f"loss {loss}")
    return f"loss {loss:.4f}"


def attached(how: str, workers: str, folder: Path) -> float:
    """Seconds of a step of the attached model, or of the plain loop."""
    script = folder / "attached.py"
    script.write_text(ATTACHED)
    words = [sys.executable, str(script), "plain"]
    if how != "plain":
        words = command("run", "--workers", workers, "--out", str(folder / f"{how}-{workers}"), str(script), how)
    done = call(words)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return float(done.stdout.split("per step")[1].split()[0])


def per_second(work: Callable[[], object], nbytes: int, device: str) -> float:
    """GB per second at which `work` goes through `nbytes`; the best of five times."""
    best = 0.0
    for _ in range(6):
        torch.cuda.synchronize() if device == "cuda" else None
        began = time.perf_counter()
        work()
        torch.cuda.synchronize() if device == "cuda" else None
        best = max(best, nbytes / (time.perf_counter() - began) / 1e9)
    return best


def bandwidth(device: str) -> float:
    """GB per second of the device's memory, read and written by a copy."""
    x = torch.randn(CODED, device=device)
    y = torch.empty_like(x)
    return per_second(lambda: y.copy_(x), 2 * x.nbytes, device)


def coded(spec: str, device: str) -> str:
    """How fast a vector of float32 on the device becomes a packet: over pinned memory, by one thread of the CPU, as in a run."""
    codec, x = parse(spec), torch.randn(CODED, device=device)
    host = torch.empty(CODED, pin_memory=device == "cuda")
    use_threads(1)
    copied = per_second(lambda: host.copy_(x), x.nbytes, device)
    whole = per_second(lambda: codec.encode(host.copy_(x)), x.nbytes, device)
    return f"{whole:.2f} GB/s, {whole / bandwidth(device):.4f} of its memory; the copy alone {copied:.1f} GB/s"


def rows(folder: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """Name of each row, and what carries it out: a function without arguments, which returns what is to be shown."""
    for strategy in STRATEGIES:
        run = learned if strategy.startswith(("a", "ssp")) else compared
        yield f"gpt {strategy}", lambda run=run, s=strategy: run("gpt", *SMALL, "--workers", "2", "--sync", s)
    for codec in CODECS:
        yield f"gpt ssgd {codec}", lambda c=codec: learned("gpt", *SMALL, "--workers", "2", "--codec", c)
    for precision in ("bf16",):
        yield f"gpt {precision}", lambda p=precision: learned("gpt", *SMALL, "--workers", "2", "--precision", p)
    for layout in ("dp:2", "fsdp:2"):
        yield f"gpt {layout}", lambda x=layout: compared("gpt", *SMALL, "--workers", "2", "--layout", x)
    yield "memory of the GPU", lambda: f"{bandwidth('cuda'):.0f} GB/s"
    for codec in CODECS:
        yield f"a vector on the GPU to a packet of {codec}", lambda c=codec: coded(c, "cuda")
    plain: dict[str, float] = {}

    def first() -> str:
        plain["s"] = attached("plain", "1", folder)
        return f"{plain['s'] * 1e3:.2f} ms a step"

    def against(how: str, workers: str) -> str:
        took = attached(how, workers, folder)
        return f"{took * 1e3:.2f} ms a step, {plain['s'] / took:.2f} of the plain loop"

    yield "plain PyTorch", first
    large_plain: dict[str, float] = {}

    def first_large() -> str:
        large_plain["rate"], held = plain_large(folder)
        return f"{large_plain['rate']:,.0f} tokens/s, {held:.1f} GB"

    def against_large(workers: str, *how: str) -> str:
        rate, held = large(folder, workers, *how)
        return f"{rate:,.0f} tokens/s, {rate / large_plain['rate']:.2f} of the plain loop, {held:.1f} GB"

    yield "gpt of 125 M, bf16, compiled: plain PyTorch", first_large
    yield "the same, 1 worker", lambda: against_large("1")
    for workers in ("1", "2"):
        yield (
            f"the same, diloco:50 int8, {workers} on the GPU",
            lambda w=workers: against_large(w, "--sync", "diloco:50", "--codec", "int8"),
        )
    for how, workers in (("diloco:50", "1"), ("ssgd", "1"), ("diloco:50", "2"), ("ssgd", "2"), ("asgd", "2")):
        yield f"attached {how}, {workers} on the GPU", lambda h=how, w=workers: against(h, w)


def main() -> int:
    if not torch.cuda.is_available():
        print("error: torch sees no CUDA device here", file=sys.stderr)
        return 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n\n| what | result | seconds |\n|---|---|---|")
    began, failed = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        for name, carry_out in rows(Path(folder)):
            begin = time.monotonic()
            if begin - began > WITHIN_S - ROW_S:
                print(f"| {name} | not tried: time is up | |")
                continue
            try:
                shown = carry_out()
            except (RuntimeError, subprocess.TimeoutExpired, KeyError) as error:
                shown, failed = f"FAILED: {error}", failed + 1
            print(f"| {name} | {shown} | {time.monotonic() - begin:.0f} |", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
