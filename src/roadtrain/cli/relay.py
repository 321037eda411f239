"""`roadtrain relay`."""

from __future__ import annotations

import os

from roadtrain.cli.fleet_arguments import Relay
from roadtrain.launch.relay import serve_relay


def relay(command: Relay) -> int:
    """Carry it out."""
    serve_relay(command.listen, os.environ, lambda url: print(f"relay at {url}; Ctrl-C ends it", flush=True))
    return 0
