"""Addresses of hosts: names, IPv4 and IPv6."""

from __future__ import annotations

import socket


def joined(host: str, port: int) -> str:
    """host:port, as URLs and gRPC write it: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def family(host: str) -> socket.AddressFamily:
    """The kind of address that `host` has first. Raises OSError when it has none."""
    return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
