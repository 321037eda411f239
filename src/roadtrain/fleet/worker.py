"""A worker's life: meet the coordinator, then run a job or a script."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from roadtrain.checkpoint.checkpoint import Checkpoints
from roadtrain.errors import DataFailed, RoadtrainError, RunFailed, StaysAway, TakenForLost, UsageError
from roadtrain.fleet.client import Client, Waiting, no_word
from roadtrain.fleet.confinement import check_allowed
from roadtrain.fleet.elastic import set_environment
from roadtrain.fleet.script import run_script
from roadtrain.fleet.succession import Heir, Succession
from roadtrain.fleet.worker_spec import WorkerSpec
from roadtrain.membership.messages import Failed, Leave, Untrained
from roadtrain.plan import Plan, parse, seat_of
from roadtrain.session.cpu_threads import use_threads
from roadtrain.session.worker_context import ScriptContext, WorkerContext
from roadtrain.trainer.job import BuiltJob, RunningJob
from roadtrain.trainer.task import make_task

COMEBACKS = 3
"""How often one process comes back after it was taken for lost."""
AGAIN = 75
"""The exit code of a script's worker that was taken for lost: started again, it is a newcomer. (EX_TEMPFAIL of sysexits.h)"""
CONNECT_S = 60.0
"""How long a worker looks for the coordinator."""
LINGER_S = 30.0
"""How long a worker serves its state at the end when the coordinator is gone."""
LENT_LINGER_S = 3600.0
"""The same of one whose coordinator is started again when it is gone: nobody else can bring home what was trained."""


def work(
    given: WorkerSpec,
    heir: Heir | None = None,
    waiting: Waiting = no_word,
    begun: Callable[[], None] = lambda: None,
    succeeded: Callable[[Callable[[], None]], None] = lambda ask: None,
    leaves: Callable[[Callable[[], None]], None] = lambda leave: None,
    logged: Callable[[int, float | None], None] = lambda step, loss: None,
) -> int:
    """Live as the worker of `given`; returns the exit code. `heir`: can make this process the coordinator; `waiting`: as in
    `Client.open`; `begun` is called when it is over; `succeeded`: as in `Client.on_succession`; `leaves` is given what lets this
    worker go before the run is over, which any thread may call; `logged` is told steps and losses as they are logged."""
    if given.threads:
        use_threads(given.threads)
    succession = Succession(given.url, given.host, heir if given.listens else None)
    client = Client.open(succession, given.credentials(), CONNECT_S, given.slot, waiting)
    client.on_begin(begun)
    client.on_succession(succeeded)
    client.on_log(logged)
    leaves(client.leave)
    linger_s = LINGER_S if given.own is None else LENT_LINGER_S
    try:
        spec = client.spec()
        plan, folder = parse(spec.plan), Path(spec.folder)
        if given.own is not None:
            check_allowed(plan, given.own)
            folder = Path(given.own.folder)
        context = WorkerContext(
            given.slot,
            plan.place.workers,
            given.host,
            folder,
            given.credentials(),
            spec.begun,
            given.local,
            given.relay,
            given.listens,
        )
        if spec.chosen is not None:
            script = ScriptContext(context, client, spec.chosen, spec.resume, spec.kept)
            store = set_environment(client, context, spec.run, lent=given.own is not None)
            if not run_script(plan.job.target, plan.job.arguments, script):
                client.say(Untrained(f"w{given.slot}"))
                client.await_over()  # others may still need the store
            del store
        else:
            _work_on_job(client, context, plan, linger_s, resume=spec.resume)
        return 0
    except TakenForLost as error:  # a script is run from its beginning, which takes a process of its own
        if client.leaves:
            return 0
        print(f"{client.me}: {error.message}; it comes back as a newcomer", file=sys.stderr)
        return AGAIN
    except StaysAway as error:
        client.say(Leave())
        print(f"{client.me} stays away: {error.message}", file=sys.stderr)
        return 0
    except RoadtrainError as error:
        if client.leaves:
            return 0
        _report(client, given, error, usage=isinstance(error, UsageError))
        return error.exit_code
    except Exception as error:  # the driver must hear of it, whatever it is
        failure = RunFailed(f"{type(error).__name__}: {error}")
        _report(client, given, failure, usage=False, memory=is_out_of_memory(error))
        with suppress(OSError):  # the disk may be full
            traceback.print_exc()
        return 1
    finally:
        client.close()


def _work_on_job(client: Client, context: WorkerContext, plan: Plan, linger_s: float, *, resume: int | None) -> None:
    """Train to the end. Whoever was taken for lost, and lives, comes back as a newcomer, if the run takes it."""
    for left in reversed(range(COMEBACKS + 1)):
        try:
            _take_part(client, context, plan, linger_s, resume=resume)
            return
        except TakenForLost as error:
            if not left:
                raise RunFailed(error.message) from error
            print(f"{client.me}: {error.message}; it comes back as a newcomer", file=sys.stderr)


def _take_part(client: Client, context: WorkerContext, plan: Plan, linger_s: float, *, resume: int | None) -> None:
    saved = None if resume is None else Checkpoints(context.folder, plan.watch.keep).load(resume)
    client.region = seat_of(plan, context.slot).region
    job = BuiltJob(plan, make_task(plan), context, saved)
    running: RunningJob | None = None
    try:
        running = job.join(client)
        _train(client, running, linger_s)
    except RunFailed:
        if running is None or not client.leaves:
            raise
        client.farewell(running.counted())
    finally:
        if running is not None:
            running.close()
        job.close()


def _train(client: Client, job: RunningJob, linger_s: float) -> None:
    complete = job.fit()
    client.done(job.step, complete=complete, stats=job.counted())
    order = client.await_end(linger_s)
    if order is not None:
        job.conclude({name.removeprefix("w"): step for name, step in order.steps.items()} or None)
        result: dict[str, Any] = job.evaluate() if order.evaluate else {}
        client.result({**result, "tokens_per_sample": job.task.tokens_per_sample})
        client.await_end(linger_s)
    client.farewell(job.counted())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the GPU or of the host; where it did in the middle of a pipeline, torch wraps the error."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def _report(client: Client, given: WorkerSpec, error: RoadtrainError, *, usage: bool, memory: bool = False) -> None:
    said = error.message if usage or isinstance(error, DataFailed) else error.line()
    everywhere = isinstance(error, DataFailed)
    client.say(Failed(said, error.hint, usage, memory, error.trace, f"w{given.slot}", everywhere))
    with suppress(OSError):
        print(f"w{given.slot}: {error.line()}", file=sys.stderr)
