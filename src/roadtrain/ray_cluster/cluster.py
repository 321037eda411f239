"""The connection to a Ray cluster: one that runs, or a small one of this machine for as long as a run lasts."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from roadtrain.errors import UsageError
from roadtrain.launch.cores import cores
from roadtrain.plan import Plan
from roadtrain.ray_cluster.asked import CLIENT, Asked
from roadtrain.ray_cluster.bundles import bundles_of, total
from roadtrain.wire.address import parted

OBJECT_STORE_BYTES = 100_000_000
"""Of a local Ray: nothing but where workers are put and their exit codes passes there."""
NO_REPORTS = "RAY_USAGE_STATS_ENABLED"
"""Ray tells its makers how it is used unless this is 0. One that we start does not, unless the person wants it."""
LOCAL = "local"
CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """This process is connected to it. `own`: it was started for this, and ends with it."""

    asked: Asked
    own: bool


@contextmanager
def connected(asked: Asked, plan: Plan) -> Iterator[Cluster]:
    """Around all that happens on the cluster; one of this machine alone gets room for `plan`. Raises UsageError where Ray is not
    installed, or the cluster cannot be reached."""
    try:
        import ray
    except ImportError:
        raise UsageError("--on ray needs Ray, which is not installed", "pip install 'roadtrain[ray]'") from None
    if ray.is_initialized():  # by the program that this is a part of
        with redirect_stdout(sys.stderr):
            yield Cluster(asked, own=False)
        return
    try:
        with _keeping_sigterm():
            own = not _joined(asked)
            if own:
                _start(total(bundles_of(plan, asked, own=True, gpus=0)).get("CPU", 0.0))
        with redirect_stdout(sys.stderr):  # where a program reads our words, it does not want Ray's
            yield Cluster(asked, own)
    finally:
        ray.shutdown()


def _joined(asked: Asked) -> bool:
    """Connect to a cluster that runs; False where there is none and none was named. Raises UsageError."""
    import ray

    named = asked.address or os.environ.get("RAY_ADDRESS", "")
    where = named or _started_here()
    if where == LOCAL or (not named and not (where and _answers(where))):
        return False
    missing = UsageError(f"there is no Ray cluster at {where}", "ray start --head prints a cluster's address")
    if not _answers(where):
        raise missing
    try:
        ray.init(where, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        hint = "if it runs, this machine needs its token: ray get-auth-token"
        raise UsageError(f"the Ray cluster at {where} does not let us in", hint) from error
    except (RuntimeError, ValueError, AssertionError) as error:  # such as another version of Ray or Python
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"Ray does not connect to the cluster: {said}", "see its page, or: ray status") from error
    return True


def _started_here() -> str:
    """The address of the cluster that `ray start` has made this machine a node of; "" for none. Not those that a program on it
    has started for itself, which Ray would find too: they end with it."""
    try:
        return (Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster").read_text().strip()
    except OSError:
        return ""


def _answers(address: str) -> bool:
    """Whether anybody is there, if it is host:port: Ray itself would try for ever."""
    try:
        socket.create_connection(parted(address.removeprefix(CLIENT).partition("/")[0]), CONNECT_S).close()
    except ValueError:
        return True
    except OSError:
        return False
    return True


def _start(processors: float) -> None:
    """One of this machine. It shares the processors out as often as it is asked: the system does that better."""
    import ray

    os.environ.setdefault(NO_REPORTS, "0")
    ray.init(
        LOCAL,
        num_cpus=max(int(processors + 0.999), cores()),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


@contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Ray would end this process by its own way."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
