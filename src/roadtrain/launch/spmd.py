"""Under an SPMD launcher (torchrun, Slurm, Kubernetes): one worker for each rank; rank 0 also embeds the coordinator.

The launcher says who we are by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. The coordinator listens on that address; under
torchrun, whose own store sits there, rank 0 takes a free port and leaves word of it in that store.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from roadtrain.errors import UsageError
from roadtrain.fleet.serving import listen
from roadtrain.fleet.worker_spec import WorkerSpec
from roadtrain.launch.heir import RunHeir
from roadtrain.launch.last_heirs import LastHeirs
from roadtrain.launch.local import LocalProcesses
from roadtrain.launch.machine_token import machine_token
from roadtrain.launch.patience import Patience
from roadtrain.launch.rank import Rank
from roadtrain.launch.run_folder import opened
from roadtrain.launch.run_request import RunRequest
from roadtrain.launch.supervisor import Supervisor, Watcher
from roadtrain.launch.words import Words
from roadtrain.report import Report
from roadtrain.wire.address import joined
from roadtrain.wire.credentials import Credentials, is_loopback
from roadtrain.wire.own_address import own_address

STORE_KEY = "roadtrain/coordinator"
LIVES, COMEBACKS = "_ROADTRAIN_LIVES", 3
"""Where a process that starts itself again counts how often it has lived, and how often at most."""


def credentials_of(rank: Rank, environment: Mapping[str, str]) -> Credentials:
    """The run's token: on one machine a secret of this user. Raises UsageError when there is none although the address can be
    reached from elsewhere."""
    loopback = is_loopback(rank.address)
    token = environment.get("ROADTRAIN_TOKEN", "")
    if not token and not loopback:
        raise UsageError(
            f"{rank.address} is not this machine alone, so the run needs a token",
            "set ROADTRAIN_TOKEN to the same secret on every host",
        )
    return Credentials(token or machine_token(), secure=not loopback)


def run_spmd(rank: Rank, order: RunRequest, watcher: Watcher, words: Words | None = None) -> Report | None:
    """Be this rank's worker; rank 0 returns the report, the others None. Raises what ended the run."""
    credentials = credentials_of(rank, os.environ)
    own = _own_address(rank.address)
    if rank.rank > 0:
        return _follow(rank, credentials, own)
    with opened(order) as lock:
        at = (own, 0) if rank.store else (rank.address, rank.port)
        conductor = Supervisor(order, credentials, listen(*at))
        if rank.store:
            _store(rank).set(STORE_KEY, str(conductor.serving.port))
        # A process of its own: the coordinator's threads would slow the training thread.
        crew = LocalProcesses(order.folder / "logs", lock, words if order.is_script else None)
        try:
            spec = WorkerSpec(conductor.serving.url, credentials.token, credentials.secure, 0, own, rank.local, 0)

            def renew(names: Sequence[str]) -> None:
                if "w0" in names:  # the others are their launchers'
                    crew.kill(names)
                    crew.start(spec)

            with conductor.hearing_ctrl_c():
                crew.start(spec)
                crew.start_feeders(order.plan.place.feeders, spec)
                conductor.watch(crew.dead, crew.beside(watcher), renew if conductor.returns else None)
        except BaseException as error:
            conductor.failed(error)
            raise
        finally:
            crew.end(at_once=order.is_script and conductor.coordinator.error is not None)
            report = conductor.finish()
    return report


def _follow(rank: Rank, credentials: Credentials, own: str) -> None:
    patience = Patience(rank.rank, joined(rank.address, rank.port))
    port = int(_store(rank).get(STORE_KEY)) if rank.store else rank.port
    scheme = "wss" if credentials.secure else "ws"
    from roadtrain.fleet.worker import AGAIN, work

    folder = Path.cwd()
    url = f"{scheme}://{joined(rank.address, port)}"
    spec = WorkerSpec(url, credentials.token, credentials.secure, rank.rank, own, rank.local, 0)
    last = LastHeirs(rank)
    heir = RunHeir(f"w{rank.rank}", credentials, last)
    code = work(spec, heir, patience, patience.begun, patience.succeeded)
    over = heir.see_through()  # others may still train, whatever this worker came to
    if over is None and code == AGAIN:
        _start_again(folder)
    last.forget()
    if code or over:
        raise SystemExit(code or over)


def _start_again(folder: Path) -> None:
    """Be the same command once more, as the same process: its launcher need not know. Returns if that was tried often enough."""
    lives = int(os.environ.get(LIVES, "1")) + 1
    if lives <= COMEBACKS:
        os.environ[LIVES] = str(lives)
        os.chdir(folder)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _store(rank: Rank):
    import datetime

    from torch._C._distributed_c10d import TCPStore

    return TCPStore(rank.address, rank.port, None, False, timeout=datetime.timedelta(seconds=60))


def _own_address(master: str) -> str:
    """The address of this host that the others reach: the one it would use to reach the master. Nothing is sent."""
    if is_loopback(master):
        return "::1" if ":" in master else "127.0.0.1"
    try:
        return own_address(joined(master, 9))
    except OSError as error:
        raise UsageError(f"MASTER_ADDR {master} cannot be reached ({error.strerror})", "see the launcher") from error
