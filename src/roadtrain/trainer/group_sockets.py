"""torch.distributed's sockets, which it keeps to itself: what they carried, asked of the kernel, and an end to waiting for them.

Linux keeps the count in `struct tcp_info` (linux/tcp.h); elsewhere nothing is counted, and nothing cut.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

ACKED_OFFSET = 120
"""Of `tcpi_bytes_acked` and, behind it, `tcpi_bytes_received`, both u64."""


class GroupSockets:
    """Counts sockets that were opened after `mark`."""

    def __init__(self) -> None:
        self._before: set[str] = set()
        self._settled = (0, 0)

    def mark(self) -> None:
        """Sockets that are open now are not counted."""
        self._before = set(_open_sockets())

    def totals(self) -> tuple[int, int]:
        """Bytes (sent, received) so far."""
        sent, received = self._settled
        for identity, fd in _open_sockets().items():
            if identity not in self._before:
                out, back = _tcp_bytes(fd)
                sent, received = sent + out, received + back
        return sent, received

    def cut(self) -> None:
        """Hang up: whoever waits for what would come through them, in any thread, has an error."""
        for identity, fd in _open_sockets().items():
            if identity not in self._before:
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as copy:
                    if copy.family in (socket.AF_INET, socket.AF_INET6):
                        copy.getpeername()  # raises for one that listens, without which gloo ends the process
                        copy.shutdown(socket.SHUT_RDWR)

    def settle(self) -> None:
        """Keep the counts of sockets that are about to be closed."""
        self._settled = self.totals()
        self.mark()


def _open_sockets() -> dict[str, int]:
    """Identity ("socket:[inode]") to file descriptor, of this process."""
    found: dict[str, int] = {}
    if not hasattr(socket, "TCP_INFO"):
        return found
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return found
    for name in names:
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.startswith("socket:"):
                found[target] = int(name)
    return found


def _tcp_bytes(fd: int) -> tuple[int, int]:
    try:
        with socket.socket(fileno=os.dup(fd)) as copy:
            if copy.family not in (socket.AF_INET, socket.AF_INET6) or copy.type != socket.SOCK_STREAM:
                return 0, 0
            info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    except OSError:
        return 0, 0
    if len(info) < ACKED_OFFSET + 16:
        return 0, 0
    sent, received = struct.unpack_from("=QQ", info, ACKED_OFFSET)
    return sent, received
