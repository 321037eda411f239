"""Addresses of hosts: names, IPv4 and IPv6."""

from __future__ import annotations

import socket
from urllib.parse import unquote


def joined(host: str, port: int) -> str:
    """host:port, as URLs and gRPC write it: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parted(address: str) -> tuple[str, int]:
    """What was `joined`. Raises ValueError when it is no address."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def family(host: str) -> socket.AddressFamily:
    """The kind of address that `host` has first. Raises OSError when it has none."""
    return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]


def dialled_from(peer: str) -> str | None:
    """host:port out of gRPC's name for the other end of a call: ipv4:1.2.3.4:5, ipv6:%5B::1%5D:5. None where it has none, being a
    Unix socket."""
    kind, _, address = peer.partition(":")
    return None if kind == "unix" else unquote(address)
