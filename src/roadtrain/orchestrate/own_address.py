"""By which others reach this machine."""

from __future__ import annotations

import socket

from roadtrain.wire.address import family, parted


def own_address(address: str) -> str:
    """By which others of that coordinator's network reach this machine: what it would reach the coordinator from."""
    host, port = parted(address)
    with socket.socket(family(host), socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))  # nothing is sent
        return str(probe.getsockname()[0])
