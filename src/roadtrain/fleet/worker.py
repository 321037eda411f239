"""A worker's life: meet the coordinator, build, join, train, finish."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from roadtrain.errors import RoadtrainError, RunFailed, UsageError
from roadtrain.fleet.client import Client
from roadtrain.fleet.post import Post
from roadtrain.plan import Plan, parse
from roadtrain.trainer.checkpoint import Checkpoints, Shared
from roadtrain.trainer.task import make_task
from roadtrain.trainer.trainer import Trainer
from roadtrain.trainer.worker_context import WorkerContext
from roadtrain.wire import Credentials

CONNECT_S = 60.0
"""How long a worker looks for the coordinator."""
LINGER_S = 30.0
"""How long a worker serves its state at the end when the coordinator is gone."""


def work(post: Post) -> int:
    """Live as the worker of `post`; returns the exit code."""
    if post.threads:
        torch.set_num_threads(post.threads)
    credentials = post.credentials()
    client = Client(post.url, credentials, CONNECT_S)
    trainer: Trainer | None = None
    try:
        trainer = _build(client, post, credentials)
        client.region = trainer.seat.region
        view, addresses = client.join(_introduction(trainer, post))
        trainer.start(client, view, addresses)
        client.on_view(trainer.view_changed)
        _train(client, trainer)
        return 0
    except RoadtrainError as error:
        _report(client, post, error, usage=isinstance(error, UsageError))
        return error.exit_code
    except Exception as error:  # the driver must hear of it, whatever it is
        traceback.print_exc()
        failure = RunFailed(f"{type(error).__name__}: {error}")
        _report(client, post, failure, usage=False, memory=is_out_of_memory(error))
        return 1
    finally:
        client.close()
        if trainer is not None:
            trainer.close()


def _build(client: Client, post: Post, credentials: Credentials) -> Trainer:
    briefing = client.briefing()
    if "chosen" in briefing:
        raise NotImplementedError("workers do not run scripts yet")
    plan = parse(briefing["plan"])
    folder = Path(briefing["folder"])
    place = WorkerContext(
        post.slot, plan.place.workers, post.host, folder, credentials, tuple(briefing["begun"]), post.local
    )
    return Trainer(plan, make_task(plan), place, _checkpoint(briefing, plan))


def _checkpoint(briefing: dict[str, Any], plan: Plan) -> Shared | None:
    if not briefing["resume"]:
        return None
    return Checkpoints(Path(briefing["folder"]), plan.watch.keep).load()


def _introduction(trainer: Trainer, post: Post) -> dict[str, Any]:
    port = trainer.exchange.port if trainer.exchange is not None else 0
    return {
        "slot": post.slot,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "address": f"{post.host}:{port}",
        "digest": trainer.digest(),
        "sizes": trainer.sizes() if trainer.seat.regions != 1 else [],  # a collective has no owners
        "model_bytes": sum(trainer.sizes()),
    }


def _train(client: Client, trainer: Trainer) -> None:
    complete = trainer.fit()
    client.say({"done": {"step": trainer.step, "complete": complete, "tally": trainer.counted()}})
    order = client.await_end(LINGER_S)
    if order is not None:
        trainer.conclude(order["steps"])
        result = trainer.evaluate() if order["evaluate"] else {}
        result["tokens_per_sample"] = trainer.task.tokens_per_sample
        client.say({"result": result})
        client.await_end(LINGER_S)
    client.say({"farewell": trainer.counted()})


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the GPU or of the host; where it did in the middle of a pipeline, torch wraps the error."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def _report(client: Client, post: Post, error: RoadtrainError, *, usage: bool, memory: bool = False) -> None:
    print(f"w{post.slot}: {error.line()}", file=sys.stderr)
    said = {"message": error.line(), "usage": usage, "memory": memory}
    client.say({"failed": said, "name": f"w{post.slot}"})
