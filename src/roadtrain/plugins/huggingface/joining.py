"""Other processes join the person's while its trainer trains: for notebooks, and for a trainer that exists already.

| step | who |
|---|---|
| a copy of the trainer goes down a pipe to each new process of this machine | rank 0, the person's process |
| environment, process group and accelerator anew | all (`world.py`) |
| `trainer.train()` | all: transformers deals out the data, averages, and has rank 0 write and log |
| as before: one process, and what was trained is in the person's own objects | rank 0 |
"""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import torch

from roadtrain.errors import RunFailed, UsageError
from roadtrain.plugins.huggingface import world
from roadtrain.plugins.huggingface.config import MultiGPUConfig, rank_here, say, say_device

GOES_S = 60.0
"""How long a process may take to end after its training has."""
ENDS_S = 15.0
"""How long a process whose connection is gone may take until it is gone too."""
TOLD_LINES = 30


@dataclass(frozen=True, slots=True)
class Joined:
    """A process that trains with this one, and the file of its words."""

    rank: int
    process: subprocess.Popen[bytes]
    words: IO[bytes]


def launch_ddp_training(trainer: Any, config: MultiGPUConfig) -> Any:
    """Train `trainer`, a transformers `Trainer`, on `config.num_gpus` devices. Afterwards its model holds the trained weights,
    its state the steps and the log. Returns what `trainer.train()` returns.

    Raises UsageError for what cannot be, RunFailed where another process has failed.
    """
    if rank_here() is None:
        config = config.here()
        say_device(config)
    return train_together(trainer, config)


def train_together(trainer: Any, config: MultiGPUConfig, *args: Any, **kwargs: Any) -> Any:
    """`trainer.train(*args, **kwargs)` in this process and others beside it. Errors as in `launch_ddp_training`."""
    world.suit_trainer(trainer, config)
    if rank_here() is not None or config.processes == 1:
        with _guarded(config):
            return trainer.train(*args, **kwargs)
    if config.sync or config.codec:
        raise UsageError(
            "sync and codec are for a script: processes that join a trainer agree by all-reduce",
            "call enable_multi_gpu in the first lines of a script",
        )
    copy = _copy(trainer, config, args, kwargs)
    with world.store() as address, world.kept(config), _processes(config, copy, address) as joined:
        try:
            with world.membership(trainer, world.ranks(0, config.processes, address), config.ddp_backend):
                say(f"{config.processes} processes train")
                with _guarded(config):
                    return trainer.train(*args, **kwargs)
        except Exception as error:
            _blame(joined, error)
            raise


def follow(stream: IO[bytes], rank: int, processes: int, address: str) -> None:
    """One of the other processes: the trainer comes from its parent, down the pipe that is `stream`."""
    trainer, config, args, kwargs, drawn = pickle.load(stream)
    with world.membership(trainer, world.ranks(rank, processes, address), config.ddp_backend):
        torch.set_rng_state(drawn["torch"])
        random.setstate(drawn["random"])
        np.random.set_state(drawn["numpy"])
        with _guarded(config):
            trainer.train(*args, **kwargs)


@contextmanager
def _guarded(config: MultiGPUConfig) -> Iterator[None]:
    """Every process that trains guards its memory, or none does: they ask each other."""
    from roadtrain.plugins.huggingface.guard import guard

    with ExitStack() as hooks:
        if config.memory_optimization:
            guard(hooks)
        yield


def _copy(trainer: Any, config: MultiGPUConfig, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
    """The trainer, how to call it, and where random numbers stand here. Raises UsageError for what cannot be copied."""
    import cloudpickle  # it takes the person's own classes along, from a notebook too

    drawn = {"torch": torch.get_rng_state(), "random": random.getstate(), "numpy": np.random.get_state()}
    with world.without_process_state(trainer):
        try:
            return cloudpickle.dumps((trainer, config, args, dict(kwargs), drawn))
        except Exception as error:
            raise UsageError(
                f"the trainer cannot be copied to other processes: {error}",
                "call enable_multi_gpu in the first lines of a script",
            ) from error


@contextmanager
def _processes(config: MultiGPUConfig, copy: bytes, address: str) -> Iterator[list[Joined]]:
    """Ranks 1 and up, until they have ended. Raises RunFailed where one ends badly though this one has not."""
    with tempfile.TemporaryDirectory(prefix="roadtrain-") as folder:
        joined: list[Joined] = []
        try:
            for rank in range(1, config.processes):
                joined.append(_start(rank, config.processes, address, folder))
            for other in joined:
                _send(other, copy)
            yield joined
            for other in joined:
                other.process.wait(GOES_S)
                if other.process.returncode:
                    raise _failure(other)
        except subprocess.TimeoutExpired:
            raise RunFailed("a process does not end, though all is trained") from None
        finally:
            for other in joined:
                other.process.kill()
                other.process.wait()
                other.words.close()


def _start(rank: int, processes: int, address: str, folder: str) -> Joined:
    words = open(os.path.join(folder, f"{rank}.log"), "w+b")  # noqa: SIM115 - closed when its process has ended
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "roadtrain.plugins.huggingface.joiner", str(rank), str(processes), address]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=words, stderr=subprocess.STDOUT, env=environment)
    return Joined(rank, process, words)


def _send(other: Joined, copy: bytes) -> None:
    assert other.process.stdin is not None
    try:
        with other.process.stdin as pipe:
            pipe.write(copy)
    except BrokenPipeError:
        other.process.wait()
        raise _failure(other) from None


def _blame(joined: list[Joined], error: Exception) -> None:
    """Of several errors the one that came first: when another process is gone, this one's is that it is gone."""
    for other in joined:
        try:
            other.process.wait(ENDS_S if "onnection" in str(error) else 0.0)
        except subprocess.TimeoutExpired:
            continue
        if other.process.returncode:
            raise _failure(other) from error


def _failure(other: Joined) -> RunFailed:
    other.words.seek(0)
    lines = other.words.read().decode(errors="replace").splitlines()
    failure = RunFailed(
        f"process {other.rank} ended with exit code {other.process.returncode}: {lines[-1] if lines else ''}"
    )
    failure.trace = "\n".join(lines[-TOLD_LINES:])
    return failure
