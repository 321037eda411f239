"""Every path of a GPU, tried on one: recipes in every strategy, an attached model, layouts that share it, one worker's speed.

    make check-gpu
    python bench/check_gpu.py --only attached "125 M"

Each row runs the command as a person would, on the GPU. First what has to be right, several rows at a time: losses are compared
with the same run on the CPU where the numbers should be those of the CPU. Then what is timed, one row after the other: codecs,
an attached model and a gpt of 125 million parameters, each against a plain PyTorch loop. At most 8 minutes; what failed is
told in full on stderr, and ends it with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from roadtrain.codec import parse
from roadtrain.session.cpu_threads import use_threads
from roadtrain.session.listener import IDLE_CORES

END_S = time.monotonic() + 8 * 60
"""When the whole check is over, on the monotonic clock."""
ROW_S = 150
"""One row."""
NEAR = 2e-3
"""Relative distance of two losses that are the same but for the order of sums."""
STRATEGIES = ("ssgd", "asgd", "ssp:2", "localsgd:5", "diloco:5", "streaming:5", "async-diloco:5", "ssgd:allreduce")
ORDERED = ("ssgd", "localsgd:5", "diloco:5", "streaming:5", "ssgd:allreduce")
"""Those whose updates have one order, and so one result."""
CODECS = ("fp16", "int8", "int4", "topk:0.1", "onebit", "powersgd:2")
LAYOUTS = ("dp:2", "fsdp:2", "tp:2", "pp:2")
SMALL = ["--layers", "2", "--width", "128", "--heads", "4", "--context", "64", "--steps", "20", "--batch", "4"]
CODED = 1 << 25
"""Values of the vector that codecs are timed on."""
REPEATS = 5
"""Of which the best counts."""
LARGE = {"layers": 14, "width": 864, "heads": 12, "context": 1024}
"""About 125 million parameters."""
LARGE_BATCH, LARGE_STEPS, LARGE_FROM = 16, 200, 50
"""Samples of a step; steps, and those before which nothing is timed, as the model is compiled in them."""
HERE = Path(__file__).parent / "gpu"


class Failed(Exception):
    """A row: what is shown in the table, and all that the command said."""

    def __init__(self, shown: str, said: str = "") -> None:
        super().__init__(shown)
        self.said = said


class Row(NamedTuple):
    """`carry_out` returns what is shown. `alone`: it is timed, so that nothing runs beside it."""

    name: str
    carry_out: Callable[[], str]
    alone: bool = False


# ------------------------------------------------------------------------------------------------------------------ commands


def roadtrain(*words: str) -> list[str]:
    return [str(Path(sys.executable).with_name("roadtrain")), *words]


def call(words: list[str], *, one_thread: bool = False) -> str:
    """What a command prints. Raises Failed when it fails, or takes too long."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} if one_thread else None
    limit_s = max(1.0, min(ROW_S, END_S - time.monotonic()))
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=limit_s, check=False, env=environment)
    except subprocess.TimeoutExpired as error:
        said = error.stderr or b""
        raise Failed(f"not over after {limit_s:.0f} s", said.decode() if isinstance(said, bytes) else said) from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
        raise Failed(lines[-1], f"{' '.join(words)}\n{done.stdout}\n{done.stderr}")
    return done.stdout


# ------------------------------------------------------------------------------------------------------------ what is right


def val_loss(*words: str, device: str) -> float:
    """Of a run on `device`."""
    with tempfile.TemporaryDirectory() as out:
        run = roadtrain("run", "--device", device, "--out", f"{out}/run", "--json", *words)
        return float(json.loads(call(run, one_thread=True))["val_loss"])


def compared(*words: str) -> str:
    """The losses of a run on the GPU and on the CPU. Raises Failed where they are not the same."""
    here, there = (val_loss(*words, device=device) for device in ("cuda", "cpu"))
    if not abs(here / there - 1) <= NEAR:
        raise Failed(f"loss {here:.4f} on the GPU, {there:.4f} on the CPU")
    return f"loss {here:.4f}, on the CPU {there:.4f}"


def learned(*words: str) -> str:
    """The loss of a run on the GPU whose updates come in no order, or lose something. Raises Failed where nothing was learned."""
    loss = val_loss(*words, device="cuda")
    if not loss < 5.0:
        raise Failed(f"loss {loss}")
    return f"loss {loss:.4f}"


def attaches(strategy: str, codec: str, folder: Path) -> str:
    """The loss of an attached model on the GPU. Raises Failed where nothing was learned."""
    out = str(folder / f"attached-{strategy}-{codec}".replace(":", "-"))
    script = [str(HERE / "attached.py"), strategy, codec]
    loss = float(
        call(roadtrain("run", "--workers", "2", "--out", out, *script), one_thread=True).split("loss")[1].split()[0]
    )
    if not loss < 2.3:  # of ten classes, before anything is learned
        raise Failed(f"loss {loss}")
    return f"loss {loss:.4f}"


def rows_of_runs(folder: Path) -> Iterator[Row]:
    for strategy in STRATEGIES:
        check = compared if strategy in ORDERED else learned
        yield Row(f"gpt {strategy}", lambda c=check, s=strategy: c("gpt", *SMALL, "--workers", "2", "--sync", s))
    for codec in CODECS:
        yield Row(f"gpt ssgd {codec}", lambda c=codec: learned("gpt", *SMALL, "--workers", "2", "--codec", c))
    yield Row("gpt clipped", lambda: compared("gpt", *SMALL, "--workers", "2", "--clip", "0.5"))
    yield Row("gpt bf16", lambda: learned("gpt", *SMALL, "--workers", "2", "--precision", "bf16"))
    half = ["--precision", "fp16", "--layout", "dp:2"]
    yield Row("gpt fp16, dp:2", lambda: learned("gpt", *SMALL, "--workers", "2", *half))
    for layout in LAYOUTS:
        yield Row(f"gpt {layout}", lambda x=layout: compared("gpt", *SMALL, "--workers", "2", "--layout", x))
    for strategy in STRATEGIES:
        if strategy != "ssgd:allreduce":
            yield Row(f"attached {strategy}", lambda s=strategy: attaches(s, "none", folder))
    for codec in CODECS:
        yield Row(f"attached diloco:5 {codec}", lambda c=codec: attaches("diloco:5", c, folder))
    job = [f"{HERE / 'steady_job.py'}:make", "--steps", "20", "--batch", "4", "--workers", "2", "--log-every", "20"]
    for strategy in ("ssgd", "diloco:5"):
        yield Row(f"no step waits for the GPU: {strategy}", lambda s=strategy: learned(*job, "--sync", s))


# ------------------------------------------------------------------------------------------------------------------- codecs


def wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def per_second(work: Callable[[], object], nbytes: int, device: str) -> float:
    """GB per second at which `work` goes through `nbytes`, at best, after one time that does not count."""
    work()
    best = 0.0
    for _ in range(REPEATS):
        wait_for(device)
        began = time.perf_counter()
        work()
        wait_for(device)
        best = max(best, nbytes / (time.perf_counter() - began) / 1e9)
    return best


def bandwidth(device: str) -> float:
    """GB per second of the device's memory, read and written by a copy."""
    x = torch.randn(CODED, device=device)
    y = torch.empty_like(x)
    return per_second(lambda: y.copy_(x), 2 * x.nbytes, device)


def coded(spec: str, device: str) -> str:
    """How fast a vector of float32 on the device becomes a packet: over pinned memory, by as many threads as in a run."""
    codec, x = parse(spec), torch.randn(CODED, device=device)
    host = torch.empty(CODED, pin_memory=device == "cuda")
    use_threads(min(IDLE_CORES, torch.get_num_threads()))
    copied = per_second(lambda: host.copy_(x), x.nbytes, device)
    whole = per_second(lambda: codec.encode(host.copy_(x)), x.nbytes, device)
    return f"{whole:.2f} GB/s, {whole / bandwidth(device):.4f} of its memory; the copy alone {copied:.1f} GB/s"


def rows_of_codecs() -> Iterator[Row]:
    yield Row("memory of the GPU", lambda: f"{bandwidth('cuda'):.0f} GB/s", alone=True)
    for codec in CODECS:
        yield Row(f"a vector on the GPU to a packet of {codec}", lambda c=codec: coded(c, "cuda"), alone=True)


# ------------------------------------------------------------------------------------------------------------ an attached model


def attached(how: str, workers: str, folder: Path) -> float:
    """Seconds of a step of the attached model, or of the plain loop."""
    script = str(HERE / "attached.py")
    words = [sys.executable, script, "plain"]
    if how != "plain":
        words = roadtrain("run", "--workers", workers, "--out", str(folder / f"{how}-{workers}"), script, how)
    return float(call(words).split("per step")[1].split()[0])


def rows_of_attached(folder: Path) -> Iterator[Row]:
    plain: list[float] = []

    def first() -> str:
        plain.append(attached("plain", "1", folder))
        return f"{plain[0] * 1e3:.2f} ms a step"

    def against(how: str, workers: str) -> str:
        took = attached(how, workers, folder)
        return f"{took * 1e3:.2f} ms a step" + (f", {plain[0] / took:.2f} of the plain loop" if plain else "")

    yield Row("attached: plain PyTorch", first, alone=True)
    for how, workers in (("diloco:50", "1"), ("ssgd", "1"), ("diloco:50", "2"), ("ssgd", "2"), ("asgd", "2")):
        name = f"attached {how}, {workers} on the GPU"
        yield Row(name, lambda h=how, w=workers: against(h, w), alone=True)


# ------------------------------------------------------------------------------------------------------------- a large model


def plain_large() -> tuple[float, float]:
    """Tokens per second and peak GB of a plain loop over the large model."""
    numbers = [*LARGE.values(), LARGE_BATCH, LARGE_STEPS, LARGE_FROM]
    rate, held = call([sys.executable, str(HERE / "plain.py"), *map(str, numbers)]).split()
    return float(rate), float(held)


def large(folder: Path, workers: str, *how: str) -> tuple[float, float, float, float]:
    """Of `roadtrain run` on the large model: tokens per second of all workers, the most GB that one held, the share of the time
    in which workers waited for each other, and seconds from the last step to the end."""
    out = folder / "-".join(("large", workers, *how)).replace(":", "-")
    size = [word for name, value in LARGE.items() for word in (f"--{name}", str(value))]
    words = ["run", "gpt", *size, "--steps", str(LARGE_STEPS), "--batch", str(LARGE_BATCH), "--workers", workers, *how]
    words += ["--precision", "bf16", "--compile", "--device", "cuda", "--log-every", "50", "--validate-every", "0"]
    report = json.loads(call(roadtrain(*words, "--json", "--out", str(out))))
    ended, last = time.time(), (out / "metrics.jsonl").stat().st_mtime
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rate = waited = 0.0
    for worker in {line["worker"] for line in lines}:
        timed = [line for line in lines if line["worker"] == worker and LARGE_FROM <= line["step"] <= LARGE_STEPS]
        took = timed[-1]["time_s"] - timed[0]["time_s"]
        rate += (timed[-1]["tokens"] - timed[0]["tokens"]) / took
        waited += (timed[-1]["sync_wait_s"] - timed[0]["sync_wait_s"]) / took / int(workers)
    return rate, max(worker["peak_memory_bytes"] for worker in report["workers"]) / 1e9, waited, ended - last


def rows_of_large(folder: Path) -> Iterator[Row]:
    plain: list[float] = []

    def first() -> str:
        rate, held = plain_large()
        plain.append(rate)
        return f"{rate:,.0f} tokens/s, {held:.1f} GB"

    def against(workers: str, *how: str) -> str:
        rate, held, waited, ending = large(folder, workers, *how)
        ratio = f", {rate / plain[0]:.3f} of the plain loop" if plain else ""
        return f"{rate:,.0f} tokens/s{ratio}, {held:.1f} GB; {waited:.1%} waited; {ending:.0f} s after the last step"

    yield Row("gpt of 125 M, bf16, compiled: plain PyTorch", first, alone=True)
    yield Row("gpt of 125 M, 1 worker", lambda: against("1"), alone=True)
    for workers in ("1", "2"):
        how = ("--sync", "diloco:50", "--codec", "int8")
        name = f"gpt of 125 M, diloco:50 int8, {workers} on the GPU"
        yield Row(name, lambda w=workers, h=how: against(w, *h), alone=True)
    how = ("--sync", "streaming:50", "--codec", "int8")
    yield Row("gpt of 125 M, streaming:50 int8, 2 on the GPU", lambda: against("2", *how), alone=True)


# ---------------------------------------------------------------------------------------------------------------------- table


def carried_out(row: Row) -> bool:
    """Carry a row out and print it. Returns whether it did not fail."""
    began = time.monotonic()
    if began > END_S - ROW_S / 3:
        print(f"| {row.name} | not tried: time is up | |", flush=True)
        return True
    try:
        shown, right = row.carry_out(), True
    except (Failed, KeyError, ValueError, IndexError, RuntimeError) as error:
        shown, right = f"FAILED: {error}", False
        print(f"--- {row.name}\n{getattr(error, 'said', '')}", file=sys.stderr, flush=True)
    print(f"| {row.name} | {shown} | {time.monotonic() - began:.0f} |", flush=True)
    return right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", metavar="TEXT", default=[""], help="the rows with one of these in their names"
    )
    only: list[str] = parser.parse_args().only
    if not torch.cuda.is_available():
        print("error: torch sees no CUDA device here", file=sys.stderr)
        return 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n\n| what | result | seconds |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [*rows_of_runs(folder), *rows_of_codecs(), *rows_of_large(folder), *rows_of_attached(folder)]
        rows = [row for row in rows if any(text in row.name for text in only)]
        with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2)) as pool:
            together = list(pool.map(carried_out, [row for row in rows if not row.alone]))
        right = together + [carried_out(row) for row in rows if row.alone]
    return int(not all(right))


if __name__ == "__main__":
    sys.exit(main())
