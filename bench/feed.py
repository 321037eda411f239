"""Batches through a feeder, side by side with torch's DataLoader on as many processes: `make bench-feed`.

JPEG pictures of 224x224 are decoded and turned at random by one process beside the one that trains. Samples a second, what the
training process itself spends on a batch, how long it waits where a step takes 200 ms, and the longest wait when one of two
feeders is killed. Medians of five runs, taken in turns; the load of the machine is said.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import secrets
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from roadtrain.batches.work import Work
from roadtrain.data.feed_client import FeedClient
from roadtrain.data.feed_server import FeedServer
from roadtrain.data.line import FeedLine
from roadtrain.data.source import DatasetSource, work_of
from roadtrain.view import Place
from roadtrain.wire.credentials import Credentials

SIDE, PICTURES, BATCH, BATCHES, RUNS = 224, 64, 32, 24, 5
STEP_S, STEPS = 0.2, 12
KILLED_AT = 4
HOST, NAME = "127.0.0.1", "pictures"
Batches = Iterator[Any]


class Pictures(Dataset[tuple[Tensor, int]]):
    """JPEGs in memory: decoded, flipped and shifted when they are asked for."""

    def __init__(self) -> None:
        generator = numpy.random.default_rng(0)
        self.files: list[bytes] = []
        for _ in range(PICTURES):
            small = generator.integers(0, 256, (14, 14, 3), dtype=numpy.uint8)
            file = io.BytesIO()
            Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
            self.files.append(file.getvalue())

    def __len__(self) -> int:
        return BATCH * BATCHES

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = torch.from_numpy(numpy.array(Image.open(io.BytesIO(self.files[index % PICTURES]))))
        picture = picture.flip(1) if float(torch.rand(())) < 0.5 else picture
        return picture.roll(int(torch.randint(0, 16, ())), 0).permute(2, 0, 1).contiguous(), index


def works() -> list[Work]:
    return [work_of(NAME, range(n * BATCH, (n + 1) * BATCH), n) for n in range(BATCHES)]


def be_feeder(number: int, token: str, parent: Connection) -> None:
    """A feeder's process: says where it is, is told where the worker is, and serves."""
    torch.set_num_threads(1)
    line = FeedLine.open(Credentials(token, secure=False), HOST)
    source = DatasetSource(Pictures(), default_collate)
    server = FeedServer(line, lambda name: source)
    parent.send(line.address)
    server.start(f"f{number}", number + 1)
    server.see({"w0": Place(parent.recv(), 1)})
    server.serve()


class Fed:
    """A worker's line to `count` feeders."""

    def __init__(self, count: int) -> None:
        token, context = secrets.token_hex(16), multiprocessing.get_context("spawn")
        line = FeedLine.open(Credentials(token, secure=False), HOST)
        self.line, self.client = line, FeedClient(line)
        self.client.start("w0", 1)
        self.processes: list[Any] = []
        places: dict[str, Place] = {}
        for number in range(count):
            mine, theirs = multiprocessing.Pipe()
            process = context.Process(target=be_feeder, args=(number, token, theirs), daemon=True)
            process.start()
            self.processes.append(process)
            places[f"f{number}"] = Place(mine.recv(), number + 1)
            mine.send(line.address)
        self.places = places
        self.client.see(places)
        self.client.take(NAME, lambda n: works()[:1], None)  # it is there, and has decoded once

    def batches(self) -> Batches:
        all_of_it = works()
        for number in range(BATCHES):
            yield self.client.take(NAME, lambda n, at=number: all_of_it[at : at + n], None).batch

    def close(self) -> None:
        self.client.close()
        for process in self.processes:
            process.kill()
            process.join()


@contextmanager
def feeder() -> Iterator[Callable[[], Batches]]:
    fed = Fed(1)
    yield fed.batches
    fed.close()


@contextmanager
def loader() -> Iterator[Callable[[], Batches]]:
    made = DataLoader(
        Pictures(), BATCH, num_workers=1, persistent_workers=True, multiprocessing_context="spawn", prefetch_factor=2
    )
    for _ in made:  # its process is there, and has decoded once
        pass
    yield lambda: iter(made)


def throughput(batches: Batches) -> tuple[float, float]:
    """Samples a second, and milliseconds of this process's processors for a batch."""
    began, used = time.perf_counter(), time.process_time()
    count = sum(1 for _ in batches)
    return count * BATCH / (time.perf_counter() - began), 1e3 * (time.process_time() - used) / count


def idle(batches: Batches) -> float:
    """The share of its time for which a loop of steps of 200 ms waits for batches."""
    waited = 0.0
    next(batches)
    for _ in range(STEPS):
        time.sleep(STEP_S)
        began = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - began
    return waited / (waited + STEPS * STEP_S)


def gap_after_a_kill() -> float:
    """The longest wait for a batch once one of two feeders was killed, of steps of 50 ms; it is known to be gone 100 ms later."""
    fed, longest = Fed(2), 0.0
    batches = fed.batches()
    for number in range(BATCHES):
        if number == KILLED_AT:
            os.kill(fed.processes[0].pid, signal.SIGKILL)
        if number == KILLED_AT + 2:
            fed.client.see({"f1": fed.places["f1"]})
        began = time.perf_counter()
        next(batches)
        if number >= KILLED_AT:
            longest = max(longest, time.perf_counter() - began)
        time.sleep(0.05)
    fed.close()
    return longest


def main() -> None:
    torch.set_num_threads(1)
    kinds = {"one feeder": feeder, "DataLoader, one process": loader}
    measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in kinds}
    for run in range(RUNS):
        for name, kind in kinds.items():
            print(f"run {run + 1} of {RUNS}: {name}", file=sys.stderr)
            with kind() as batches:
                measured[name].append((*throughput(batches()), idle(batches())))
    table = Table(title=f"JPEG {SIDE}x{SIDE}, batches of {BATCH}; load {os.getloadavg()[0]:.1f}")
    for column in ("batches of", "samples/s", "ms of the trainer's CPU a batch", "idle at steps of 200 ms"):
        table.add_column(column, justify="left" if column == "batches of" else "right")
    for name, rows in measured.items():
        rate, cpu, waited = (statistics.median(column) for column in zip(*rows, strict=True))
        table.add_row(name, f"{rate:,.0f}", f"{cpu:.1f}", f"{waited:.2%}")
    Console().print(table)
    gaps = [gap_after_a_kill() for _ in range(3)]
    print(f"longest wait when one of two feeders is killed: {statistics.median(gaps):.3f} s (median of {len(gaps)})")


if __name__ == "__main__":
    main()
