"""What torchrun would have set for a script: the environment, and the store at which its process groups meet."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from torch._C._distributed_c10d import TCPStore

from roadtrain.fleet.client import Client
from roadtrain.membership.messages import TorchStore
from roadtrain.session.worker_context import WorkerContext
from roadtrain.wire.address import family, joined, parted
from roadtrain.wire.credentials import is_loopback

STORE_S = 20.0
"""How long a worker waits to hear where the first one serves the store. A script that needs none runs all the same."""
AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"
"""True: ranks are clients of a store that was there before them."""


def set_environment(client: Client, worker: WorkerContext, run: str, *, lent: bool) -> TCPStore | None:
    """Let a script find what it would under torchrun; what a launcher has set stays. Returns the store that this process serves,
    if it does: it lasts as long as that is kept.

    `lent`: the machine is not the person's own. A store is neither encrypted nor does it know who asks, so beyond one machine it
    is served only where the person's launcher has made the network theirs.
    """
    own = _ranks(worker)
    known = all(os.environ.get(name) == own[name] for name in ("RANK", "WORLD_SIZE"))
    if known and os.environ.get(AGENT_STORE) == "True":
        return None  # torchrun has set all of it
    here = os.environ if known else {}
    os.environ |= {**_elastic(run, own), **{name: here[name] for name in _elastic(run, own) if name in here}, **own}
    if lent and not is_loopback(worker.host):
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)
        return None
    store, address = _serve(client, worker.host) if worker.slot == 0 else (None, client.store(STORE_S))
    if address:
        host, port = parted(address)
        os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": str(port), AGENT_STORE: "True"}
    return store


def _ranks(worker: WorkerContext) -> Mapping[str, str]:
    return {
        "RANK": str(worker.slot),
        "WORLD_SIZE": str(worker.slots),
        "LOCAL_RANK": str(worker.local),
        "LOCAL_WORLD_SIZE": os.environ.get("LOCAL_WORLD_SIZE", str(worker.slots)),
    }


def _elastic(run: str, ranks: Mapping[str, str]) -> Mapping[str, str]:
    """What torchrun says of itself, and of its only role."""
    return {
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "ROLE_RANK": ranks["RANK"],
        "ROLE_WORLD_SIZE": ranks["WORLD_SIZE"],
        "ROLE_NAME": "default",
        "TORCHELASTIC_RUN_ID": run,
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    }


def _serve(client: Client, host: str) -> tuple[TCPStore, str]:
    """Serve the store, on a free port of `host` alone, and let all know."""
    listener = socket.socket(family(host), socket.SOCK_STREAM)
    listener.bind((host, 0))
    listener.listen()
    port = int(listener.getsockname()[1])
    store = TCPStore(host, port, None, True, wait_for_workers=False, master_listen_fd=listener.detach())
    client.say(TorchStore(joined(host, port)))
    return store, joined(host, port)
