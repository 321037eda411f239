"""torchrun's own flags, as it spells them: what it is asked on one machine, asked of `roadtrain run`."""

from __future__ import annotations

import argparse
import os
from typing import Any

from roadtrain.cli.parser import Parser, destination
from roadtrain.errors import UsageError
from roadtrain.plan import settings

MEETING = ("node-rank", "master-addr", "master-port", "rdzv-backend", "rdzv-endpoint", "rdzv-id", "rdzv-conf")
"""Where the processes of several machines meet. On one machine they do so without being told."""
WATCHING = ("monitor-interval", "start-method", "event-log-handler", "shutdown-timeout")
"""How torchrun watches its processes. Ours are watched anyway."""
WORDS = ("role", "log-dir", "logs-specs", "redirects", "tee", "local-ranks-filter", "local-addr", "numa-binding")
"""What its processes are called and where their words go. Ours go into the run's folder, and the first one's to the terminal."""
SHORT = {"redirects": "-r", "tee": "-t"}
WORKERS = ("place", "workers")


def add_torchrun(parser: Parser) -> None:
    """Flags that a command line for torchrun may have before its script."""
    group = parser.add_argument_group(
        "torchrun", "Flags of torchrun, for one machine. What is not listed here has no meaning."
    )
    unset: dict[str, Any] = {"default": argparse.SUPPRESS}
    _add(
        group,
        "nproc-per-node",
        dest=destination(settings()[WORKERS]),
        type=_processes,
        metavar="N",
        help="as --workers",
        **unset,
    )
    _add(group, "nnodes", type=_one_machine, metavar="1", help="machines", **unset)
    _add(group, "max-restarts", type=_no_restart, metavar="0", help="a script begins once", **unset)
    _add(group, "standalone", action="store_true", help="one machine: it is so anyway", **unset)
    for name in ("no-python", "run-path"):
        _add(group, name, action=_NoScript, nargs=0, help=argparse.SUPPRESS, **unset)
    for name in (*MEETING, *WATCHING, *WORDS):
        _add(group, name, *filter(None, [SHORT.get(name)]), metavar="X", help=argparse.SUPPRESS, **unset)


class _NoScript(argparse.Action):
    """Another way to begin than by a script or a module."""

    def __call__(self, parser: object, namespace: object, values: object, option_string: str | None = None) -> None:
        raise UsageError(
            f"{option_string}: roadtrain hooks on torch in the process of the script, so it runs Python alone",
            "name the script (train.py) or the module (-m package.module) that the program starts in the end",
        )


def _add(group: Any, name: str, *short: str, **spelt: Any) -> None:
    """torchrun takes both spellings."""
    names = dict.fromkeys((f"--{name}", f"--{name.replace('-', '_')}", *short))
    group.add_argument(*names, **spelt)


def _processes(text: str) -> int:
    """How many processes: a number, or as many as there are devices of a kind."""
    if text in ("auto", "gpu", "cpu"):
        return _devices(text)
    try:
        return settings()[WORKERS].from_text(text, "--nproc-per-node")  # pyright: ignore[reportReturnType]
    except ValueError:
        raise UsageError(f"--nproc-per-node is '{text}'", "wanted a whole number, auto, cpu or gpu") from None


def _devices(kind: str) -> int:
    import torch

    gpus = torch.cuda.device_count()
    if kind == "gpu" and not gpus:
        raise UsageError("--nproc-per-node gpu, and there is no CUDA here", "give a number")
    return (os.cpu_count() or 1) if kind == "cpu" or not gpus else gpus


def _one_machine(text: str) -> str:
    if text not in ("1", "1:1"):
        raise UsageError(
            f"--nnodes {text}: roadtrain run starts processes on this machine alone",
            "add --on TICKET to use a fleet, or let a launcher start it: torchrun --no-python roadtrain run SCRIPT.py",
        )
    return text


def _no_restart(text: str) -> str:
    if text != "0":
        raise UsageError(
            f"--max-restarts {text}: a script that was not written for roadtrain is not begun again",
            "leave it out; with rt.attach in the script lost workers come back",
        )
    return text
