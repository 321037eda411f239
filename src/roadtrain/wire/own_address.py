"""By which address others of a network reach this machine."""

from __future__ import annotations

import socket

from roadtrain.wire.address import family, parted


def own_address(address: str) -> str:
    """What this machine would reach `address` (host:port) from. Raises OSError where it cannot."""
    host, port = parted(address)
    with socket.socket(family(host), socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))  # nothing is sent
        return str(probe.getsockname()[0])
