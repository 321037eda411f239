"""Whatever of a fleet is killed, and whichever line is cut, each sample of an epoch counts once: by the ledger, and by the
weights of a model that has one for each sample. With one worker samples come in the order of an undisturbed run, to the bit."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from live import weights
from live_fleet import COMMAND, Command, LiveFleet, until
from namespaces import Lines, Network, network
from torch import Tensor

from roadtrain.trainer.sampler import Sampler

BATCH, SEED, RATE = 8, 3, 1.0
JOB = """
import time
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.times = nn.Parameter(torch.zeros({size}, dtype=torch.float64))
        self.order = nn.Parameter(torch.zeros((), dtype=torch.float64))

class Task:
    '''The gradient of sample i raises weight i and no other; what comes of `order` depends on the order of the batches.'''
    tokens_per_sample = 0
    def build(self):
        return Model()
    def __len__(self):
        return {size}
    def batch(self, indices):
        time.sleep(0.02)
        return indices
    def loss(self, model, batch):
        if torch.is_grad_enabled():
            time.sleep(0.1)
        aim = batch.double().mean() / {size}
        return 0.1 * (model.order - aim) ** 2 - model.times[batch].mean()
    def validate(self, model):
        return -float(model.times.mean())
    def sample(self, model):
        return None

def make(plan):
    return Task()
"""
COORDINATOR, MACHINES, FEEDER = 0, (1, 2, 3), 4
"""Hosts."""
STRATEGIES = {
    "one worker": (1, "--sync", "ssgd", "--checkpoint-every", 5),
    "ssgd": (3, "--sync", "ssgd", "--owners", "central", "--checkpoint-every", 10),
    "asgd": (3, "--sync", "asgd", "--order", "any", "--checkpoint-every", 10),
    "localsgd": (3, "--sync", "localsgd:4", "--checkpoint-every", 10),
    "diloco": (3, "--sync", "diloco:5", "--order", "any", "--checkpoint-every", 10),
}
KINDS = ("feeder", "worker", "owner", "coordinator", "link")
RUNS, KILLS, STEPS = 8, 5, 240
"""Of each strategy, of each run, of each worker: 200 kills in all."""


class LinedFleet(LiveFleet):
    """A fleet whose commands run at the hosts of a network."""

    def __init__(self, folder: Path, net: Network) -> None:
        self.net, self.host = net, COORDINATOR
        super().__init__(folder, "--listen", f"{net.address(COORDINATOR)}:0")

    def command(self, *words: str, name: str) -> Command:
        made = Command(self.folder, *words, name=f"{name}{len(self.commands)}", command=self.net.at(self.host, COMMAND))
        self.commands.append(made)
        return made

    def serve(self) -> None:
        self.host = COORDINATOR
        self.flags = ("--listen", f"{self.net.address(COORDINATOR)}:{self.port}")
        super().serve()

    def at(self, host: int) -> LinedFleet:
        """The next command runs there."""
        self.host = host
        return self


class Run:
    """One run of the fleet over `size` samples, as its folder shows it."""

    def __init__(self, fleet: LinedFleet, name: str, words: tuple[object, ...], size: int) -> None:
        self.size = size
        self.fleet, self.folder = fleet, fleet.folder / name
        kept = fleet.folder / "state" / "runs"
        before = set(kept.glob("*"))
        self.driver = fleet.at(COORDINATOR).start(*map(str, words), out=name)
        (self._kept,) = until(lambda: set(kept.glob("*")) - before, "the run's folder")

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Whole lines of a file of the run's folder at the coordinator; it comes home at the end."""
        path = self._kept / name
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def pids(self, event: str, who: str) -> dict[str, int]:
        """The present process of each."""
        return {each[who]: each["pid"] for each in self.lines("events.jsonl") if each["event"] == event}

    def counted(self) -> int:
        """Samples that the ledger has by now."""
        return sum(line["end"] - line["begin"] for line in self.lines("ledger.jsonl"))

    def reach(self, samples: float) -> bool:
        """Wait until so many are in; whether that was before the end."""
        gone = self.driver.popen.poll
        until(lambda: self.counted() >= samples or gone() is not None, f"{samples:.0f} samples", 120)
        return gone() is None and self.counted() < self.size


def kill(run: Run, kind: str, draw: random.Random) -> str:
    """Something of the fleet dies, or a line is cut for a while. What it was."""
    if kind == "coordinator":
        run.fleet.coordinator.end(signal.SIGKILL)
        time.sleep(draw.uniform(0.0, 2.0))
        run.fleet.serve()
        return kind
    if kind == "link":
        one, other = draw.sample(range(5), 2)
        run.fleet.net.cut(one, other)
        time.sleep(draw.uniform(0.3, 4.0))
        run.fleet.net.heal(one, other)
        return f"link {one} {other}"
    found = run.pids("feeder_joined", "feeder") if kind == "feeder" else run.pids("joined", "worker")
    if kind == "owner":
        moved = [each["to"][0] for each in run.lines("events.jsonl") if each["event"] == "handoff"]
        owner = moved[-1] if moved else "w0"
        found = {name: pid for name, pid in found.items() if name == owner} or found
    if not found:
        return f"no {kind}"
    victim, pid = draw.choice(sorted(found.items()))
    with contextlib.suppress(ProcessLookupError):  # it has not come back from the last time
        os.kill(pid, signal.SIGKILL)
    return f"{kind} {victim}"


def disturbed(run: Run, draw: random.Random) -> list[str]:
    """Kill some: a loss is survived when standbys hold all, so after a moment."""
    killed: list[str] = []
    kinds = draw.sample(KINDS, KILLS)
    for number, kind in enumerate(kinds):
        if not run.reach(run.size * (number + draw.uniform(0.2, 0.8)) / (KILLS + 2)):
            break
        time.sleep(draw.uniform(0.0, 0.1))
        killed.append(f"{kill(run, kind, draw)} at {run.counted()}")
        time.sleep(2.0)
    return killed


def check(folder: Path, size: int, workers: int, sync: str) -> None:
    """All that is promised of the samples of an epoch."""
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    at = 0
    for line in sorted(lines, key=lambda each: (each["epoch"], each["begin"])):
        assert (line["epoch"], line["begin"]) == (0, at), f"{line} after position {at}"
        at = line["end"]
    assert at == size
    times: Tensor = weights(folder)["times"] * BATCH / RATE
    missing = (times <= 0).nonzero().flatten().tolist()
    assert not missing, f"{len(missing)} samples are in no contribution: {missing[:20]}"
    parts = {"asgd": [1.0], "ssgd": [1 / count for count in range(1, workers + 1)]}.get(sync, [])
    if parts:
        odd = [float(each) for each in times if min(abs(float(each) - part) for part in parts) > 1e-6]
        assert not odd, f"{len(odd)} weights are of other than one contribution: {odd[:20]}"


def order_hash(folder: Path, size: int) -> str:
    """Of the numbers of the samples as they came in."""
    order: list[int] = []
    slices = Sampler(size, BATCH, 1, SEED)
    for line in map(json.loads, (folder / "ledger.jsonl").read_text().splitlines()):
        for number in range(line["begin"] // BATCH, line["end"] // BATCH):
            order += slices.slice(number).tolist()
    return hashlib.sha256(json.dumps(order).encode()).hexdigest()


@contextmanager
def fleet_of(folder: Path, job: Path, workers: int) -> Iterator[LinedFleet]:
    """A coordinator, machines of one worker each, and a machine that feeds."""
    with network(5, Lines(delay_s=0.001)) as net:
        fleet = LinedFleet(folder, net)
        try:
            for host in MACHINES[:workers]:
                fleet.at(host).join("--allow-code", "--name", f"m{host}", "--host", net.address(host))
            words = ("feed", f"{job}:make", "--on", fleet.ticket, "--processes", "2", "--json")
            fleet.at(FEEDER).command(*words, name="feed").first()
            yield fleet
        finally:
            fleet.close()


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", STRATEGIES)
def test_nothing_is_lost_or_repeated_whatever_of_a_fleet_is_killed(tmp_path: Path, name: str) -> None:
    """40 runs of 5 kills each, drawn by seed."""
    workers, *flags = STRATEGIES[name]
    size, job = STEPS * int(workers) * BATCH, tmp_path / "counting.py"
    job.write_text(JOB.format(size=size))
    training = ("--batch", BATCH, "--steps", STEPS, "--optimizer", "sgd", "--lr", RATE, "--seed", SEED)
    words = (f"{job}:make", "--workers", workers, *training, *flags)
    with fleet_of(tmp_path, job, int(workers)) as fleet:
        if workers == 1:
            assert Run(fleet, "undisturbed", words, size).driver.popen.wait(200) == 0
        for seed in range(int(os.environ.get("KILL_RUNS", RUNS))):
            run = Run(fleet, f"run-{seed}", words, size)
            killed = disturbed(run, random.Random(f"{name} {seed}"))
            code = run.driver.popen.wait(300)
            said = f"seed {seed}, killed {killed}: {run.driver.err.read_text()}"
            print(said)
            assert code == 0, said
            try:
                check(run.folder, size, int(workers), str(flags[1]))
                if workers == 1:
                    ends = [fleet.folder / "undisturbed", run.folder]
                    assert len({order_hash(each, size) for each in ends}) == 1
                    one, other = map(weights, ends)
                    assert all(bool((one[name] == other[name]).all()) for name in one)
            except AssertionError as error:
                raise AssertionError(f"{said}{error}") from error
