"""What `roadtrain coordinator --lan` opens: its neighbours see it, and whoever has its digits gets in."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from fastapi import APIRouter

from roadtrain.orchestrate.hub import Hub
from roadtrain.orchestrate.lan.discovery import announced
from roadtrain.orchestrate.lan.pairing import draw_digits
from roadtrain.orchestrate.lan.routes import pairing_router
from roadtrain.wire.address import parted


class Door:
    """Of one coordinator, as long as its process lives. `digits`: those it shows."""

    def __init__(self) -> None:
        self.digits = draw_digits()

    def router(self, hub: Hub, pin: bytes, addresses: Sequence[str]) -> APIRouter:
        """See `pairing_router`."""
        return pairing_router(hub, self.digits, pin, addresses)

    def seen(self, addresses: Sequence[str]) -> AbstractAsyncContextManager[None]:
        """While neighbours see it; at its loopback address only where it has no other."""
        away = [address for address in addresses if not _is_loopback(parted(address)[0])]
        return announced(socket.gethostname(), away or addresses)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
