"""Coordinators and machines of one network find each other by multicast DNS (RFC 6762, RFC 6763).

What is announced is no secret, and nothing of it is believed: who somebody is, the digits show (`pairing.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from zeroconf import Error, IPVersion, ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncZeroconf

from roadtrain.errors import UsageError
from roadtrain.wire.address import joined, parted

SERVICE = "_roadtrain._tcp.local."
LOOK_S = 2.5
"""How long answers are waited for."""
MORE_S = 0.7
"""After the first answer, how long for others."""
INFO_MS = 1000


@dataclass(frozen=True, slots=True)
class Nearby:
    """A coordinator that says it is there. `addresses`: host:port."""

    name: str
    addresses: tuple[str, ...]


@contextlib.asynccontextmanager
async def announced(name: str, addresses: Sequence[str]) -> AsyncIterator[None]:
    """While neighbours can see that a coordinator called `name` is at `addresses` (host:port). Raises UsageError where they
    cannot."""
    places = [parted(address) for address in addresses]
    numbers = [socket.inet_pton(_family(host), host) for host, _ in places if _is_number(host)]
    info = ServiceInfo(SERVICE, f"{_label(name)}.{SERVICE}", port=places[0][1], addresses=numbers, server=_server(name))
    try:
        zeroconf = AsyncZeroconf()
        await zeroconf.async_register_service(info, allow_name_change=True)
    except (OSError, Error) as error:
        raise UsageError(
            f"cannot be seen in this network ({error or type(error).__name__})", "leave out --lan"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await zeroconf.async_unregister_all_services()
        await zeroconf.async_close()


def look(within_s: float = LOOK_S) -> list[Nearby]:
    """All that answer, by name. Raises UsageError where nobody can be asked."""
    try:
        zeroconf = Zeroconf()
    except OSError as error:
        raise UsageError(f"cannot look around in this network ({error})", "paste a ticket") from error
    names: dict[str, None] = {}
    news = threading.Event()

    def heard(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Added:
            names[name] = None
            news.set()

    try:
        browser = ServiceBrowser(zeroconf, SERVICE, handlers=[heard])
        if news.wait(within_s):
            time.sleep(MORE_S)
        browser.cancel()
        found = [zeroconf.get_service_info(SERVICE, name, INFO_MS) for name in list(names)]
    finally:
        zeroconf.close()
    said = [_nearby(info) for info in found if info is not None]
    return sorted((each for each in said if each.addresses), key=lambda each: each.name)


def _nearby(info: ServiceInfo) -> Nearby:
    name = info.name.removesuffix(f".{SERVICE}")
    port = info.port or 0
    hosts = info.parsed_scoped_addresses(IPVersion.All)
    return Nearby(re.sub(r"[^\w. ()-]", "?", name), tuple(joined(host, port) for host in hosts))


def _label(name: str) -> str:
    """One label of a name of DNS: no more than 63 bytes."""
    return re.sub(r"[^A-Za-z0-9-]", "-", name)[:48].strip("-") or "coordinator"


def _server(name: str) -> str:
    return f"{_label(name)}-roadtrain.local."


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
