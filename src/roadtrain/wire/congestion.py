"""TCP's congestion control for the connections to peers: BBR, where the kernel has it and lets us (Linux).

A round is a burst of a few megabytes after seconds of silence. CUBIC, the usual default, starts each burst slowly and takes a
lost packet for a full link; BBR (Cardwell et al. 2016, ACM Queue 14-5) remembers the link's rate. gRPC and torch.distributed keep
their sockets to themselves, so they are found among the process's open files by whom they are connected to.
"""

from __future__ import annotations

import os
import socket
from asyncio.trsock import TransportSocket
from collections.abc import Iterator

from roadtrain.wire.credentials import is_loopback

BBR = b"bbr"


def prefer_bbr(address: str | None = None) -> int:
    """Let this process's TCP connections to `address` (IP:port), or to everybody, use BBR; returns how many do now.

    None do on loopback, which has no rate to find, nor where the kernel has no BBR: then the system's choice stays.
    """
    changed = 0
    for connection, (host, port) in _connections():
        with connection:
            if not is_loopback(host) and address in (None, f"{host}:{port}", f"[{host}]:{port}"):
                changed += use_bbr(connection)
    return changed


def use_bbr(connection: socket.socket | TransportSocket) -> bool:
    """Let it use BBR, or what is accepted on it; whether it does now."""
    option = getattr(socket, "TCP_CONGESTION", None)
    if option is None:
        return False
    try:
        connection.setsockopt(socket.IPPROTO_TCP, option, BBR)
    except OSError:
        return False
    return True


def _connections() -> Iterator[tuple[socket.socket, tuple[str, int]]]:
    """Duplicates of this process's TCP sockets that are connected, and to whom."""
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return
    for name in names:
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            found = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue  # closed in the meantime
        peer = _peer_of(found)
        if peer is None:
            found.close()
        else:
            yield found, peer


def _peer_of(found: socket.socket) -> tuple[str, int] | None:
    if found.family not in (socket.AF_INET, socket.AF_INET6) or found.type is not socket.SOCK_STREAM:
        return None
    try:
        host, port = found.getpeername()[:2]
    except OSError:
        return None  # not connected
    return str(host).removeprefix("::ffff:"), int(port)
