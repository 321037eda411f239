"""A worker that only dials out, as a process: `dial_out.py URL TOKEN SLOT`. The relay is at the coordinator."""

from __future__ import annotations

import sys

from roadtrain.fleet.worker import work
from roadtrain.fleet.worker_spec import WorkerSpec
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.relay import Relay

if __name__ == "__main__":
    url, token, slot = sys.argv[1:]
    relay = Relay.with_token(url, Credentials(token, secure=True))
    nowhere = "192.0.2.1"  # an address of no host: what listened there would fail
    sys.exit(work(WorkerSpec(url, token, True, int(slot), nowhere, 0, 0, relay=relay, listens=False)))
