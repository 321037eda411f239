"""A person's script as a worker: it runs as `__main__`, as if Python had been given it, and finds the run when it attaches."""

from __future__ import annotations

import ast
import multiprocessing
import os
import runpy
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from roadtrain.errors import RoadtrainError, RunFailed, UsageError
from roadtrain.loop.attach import finish_attached
from roadtrain.loop.attached import Stopped
from roadtrain.plan import Target, add_folder
from roadtrain.session.device import take_turn
from roadtrain.session.worker_context import ScriptContext, run_as
from roadtrain.torchrun.prepare import prepare

KEPT: list[object] = []
"""What a script has made, or what its end refers to, lives as long as its process, as in plain Python. A process group that goes
with the last model waits for its threads, and those may wait for Python's lock, which whoever clears a module holds."""


def run_script(target: str, arguments: Sequence[str], context: ScriptContext) -> bool:
    """Run the script `target` with its `arguments` to its end, and the training that it has attached with it.

    Raises RunFailed with the script's own traceback when it raises, and UsageError when it has not trained at all, though it
    was to train with others. Whether it has trained is returned.
    """
    found, worker = Target.parse(target), context.worker
    # As in plain Python: this process was forked by a server, and its own would be too, and run the script once more.
    multiprocessing.set_start_method(None, force=True)  # pyright: ignore[reportArgumentType]
    run_as(context)
    _set_line_buffered()
    take_turn(str(context.chosen.get("place", {}).get("device", "auto")), worker.local)
    hooks = prepare(context)
    try:
        _run(found, arguments)
        attached = finish_attached()
    except RoadtrainError:
        raise
    except SystemExit as error:
        if error.code not in (None, 0):
            raise RunFailed(f"the script ended with exit code {error.code}") from error
        KEPT.append(error)
        attached = finish_attached()
    except Stopped as error:
        KEPT.append(error)
        attached = finish_attached()
    except BaseException as error:
        raise _told(error, found) from error
    if not attached and not hooks.met and (worker.slots > 1 or _jobs(found)):
        raise UsageError(f"{found} ended without training with roadtrain", _remedy(found))
    return attached


def run_as_feeder(target: str, arguments: Sequence[str], workers: int) -> None:
    """Run the script until it would train: there it serves what it would train on. It has a rank that no worker has."""
    os.environ |= {"RANK": str(workers), "WORLD_SIZE": str(workers), "LOCAL_RANK": "0"}
    multiprocessing.set_start_method(None, force=True)  # pyright: ignore[reportArgumentType]
    found = Target.parse(target)
    try:
        _run(found, arguments)
    except (Stopped, SystemExit):
        return
    except BaseException as error:
        raise _told(error, found) from error


def _remedy(found: Target) -> str:
    """What a file may be that trains nothing by itself: the place of a job."""
    attach = "call rt.attach(model, optimizer) in it"
    jobs = _jobs(found)
    return f"{attach}; if it holds a job, name its function: {found}:{jobs[-1]}" if jobs else attach


def _jobs(found: Target) -> list[str]:
    """Functions in it that may make a job's task: they take the plan."""
    if found.file is None:
        return []
    tree = ast.parse(found.file.read_bytes())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.args.args[:1]]
    return [function.name for function in functions if function.args.args[0].arg == "plan"]


def _run(found: Target, arguments: Sequence[str]) -> None:
    if found.file is not None:
        sys.argv = [str(found.file), *arguments]
        add_folder(found.file.parent)
        KEPT.append(runpy.run_path(str(found.file), run_name="__main__"))
    else:
        sys.argv = [found.module, *arguments]
        add_folder(Path.cwd())
        KEPT.append(runpy.run_module(found.module, run_name="__main__", alter_sys=True))


def _told(error: BaseException, found: Target) -> RunFailed:
    """The script's error, with its own frames alone."""
    trace = _own_frames(error.__traceback__, found)
    words = str(error).strip().splitlines()
    failure = RunFailed(f"{type(error).__name__}: {words[0]}" if words else type(error).__name__)
    failure.trace = "".join(traceback.format_exception(type(error), error, trace))
    return failure


def _own_frames(trace: TracebackType | None, found: Target) -> TracebackType | None:
    """From the script's first frame on; all of them where it has none."""
    begin = trace
    while begin is not None:
        code = begin.tb_frame
        if code.f_code.co_filename == found.place or code.f_globals.get("__name__") == "__main__":
            return begin
        begin = begin.tb_next
    return trace


def _set_line_buffered() -> None:
    """Its words are read while it runs."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True)
