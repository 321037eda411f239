"""What asyncio keeps for each connection with TLS: 256 KiB, all of it written to, and as much is asked for with every read. A
coordinator has thousands of connections, on which little is said."""

from __future__ import annotations

from asyncio import sslproto

BYTES = 16 * 1024
"""One record of TLS."""


def use_small_tls_buffers() -> None:
    """Of connections of this process that come from now on."""
    sslproto.SSLProtocol.max_size = BYTES
