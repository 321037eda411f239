"""`roadtrain coordinator`: serves a fleet until it is asked to stop. All that it knows is in its folder."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import os
import secrets
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from roadtrain.errors import UsageError
from roadtrain.fleet.serving import config_of, listen
from roadtrain.fleet.tls_buffers import use_small_tls_buffers
from roadtrain.orchestrate.app import make_app
from roadtrain.orchestrate.guard import LOOK_S, Guard, Guarded, GuardedListener
from roadtrain.orchestrate.hub import Hub
from roadtrain.orchestrate.identity import Identity
from roadtrain.orchestrate.pauses import shorten_pauses
from roadtrain.orchestrate.register import Register
from roadtrain.orchestrate.ticket import Role, Ticket, draw
from roadtrain.orchestrate.tunnel.door import tunnel_router
from roadtrain.orchestrate.tunnel.programs import PROGRAMS, opened
from roadtrain.wire.address import joined, parted

if TYPE_CHECKING:
    from roadtrain.orchestrate.lan.door import Door

TICKET, SECRET = "ticket", "secret"
"""Files that nobody else may read: the owner's ticket, and what runs' secrets are made of."""


@dataclass(frozen=True, slots=True)
class Announced:
    """Where the coordinator is, and the ticket that may do everything. `digits`: what neighbours join with; `quota`: what the
    tunnel carries; "" for none."""

    ticket: str
    url: str
    digits: str
    quota: str


def serve(
    address: str, folder: Path, announce: Callable[[Announced], None], *, lan: bool = False, tunnel: str = ""
) -> None:
    """Serve at `address` (host:port) until SIGTERM or SIGINT. `announce` is told when others can come. `lan`: neighbours see it,
    and may join with six digits. `tunnel`: the program (of `PROGRAMS`) through which those come who cannot dial it; "" for none.

    Raises UsageError for a port in use, a folder that cannot be written or has a coordinator already, and an extra or a program
    that is missing; RunFailed where there is no tunnel to be had.
    """
    host, port = _parted(address)
    door = _door() if lan else None
    with _locked(folder):
        use_small_tls_buffers()
        with listen(host, port) as listener:
            secret = bytes.fromhex(_kept(folder / SECRET, lambda: secrets.token_hex(32)))
            hub = Hub(Register(folder), folder, secret)
            coordinator = _Coordinator(hub, Identity.of(folder), host, listener, door, tunnel)
            try:
                asyncio.run(coordinator.serve(announce))
            finally:
                hub.close()


def _door() -> Door:
    """Raises UsageError where the extra is missing."""
    try:
        from roadtrain.orchestrate.lan.door import Door
    except ModuleNotFoundError as missing:
        hint = "pip install 'roadtrain[lan]'"
        raise UsageError(f"--lan wants {missing.name}, which is not installed", hint) from None
    return Door()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """They are heard outside: uvicorn would end by them once more."""
        yield


@dataclass(slots=True)
class _Coordinator:
    """`hub` at `listener`, which others find at `host`."""

    hub: Hub
    identity: Identity
    host: str
    listener: socket.socket
    door: Door | None
    tunnel: str

    async def serve(self, announce: Callable[[Announced], None]) -> None:
        """Until a signal says that it is enough."""
        enough = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                asyncio.get_running_loop().add_signal_handler(number, enough.set)
        stopping = asyncio.create_task(enough.wait())
        try:
            async with AsyncExitStack() as ways:
                opening = asyncio.create_task(self._open_ways(ways))
                await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
                if opening.done():
                    await self._serve_at(opening.result(), announce, stopping)
                else:
                    opening.cancel()
                    await asyncio.wait([opening])
        finally:
            stopping.cancel()

    async def _open_ways(self, ways: AsyncExitStack) -> tuple[str, ...]:
        """What is to be open while it serves; the addresses (host:port, or of a tunnel) at which others find it."""
        port = self.listener.getsockname()[1]
        near = [joined(name, port) for name in reachable_at(self.host)]
        if self.door is not None:
            await ways.enter_async_context(self.door.seen(near))
        if not self.tunnel:
            return tuple(near)
        gone = functools.partial(self.hub.log.say, "tunnel", state="ended", program=self.tunnel)
        return *near, await ways.enter_async_context(opened(PROGRAMS[self.tunnel], port, gone))

    async def _serve_at(
        self, addresses: tuple[str, ...], announce: Callable[[Announced], None], stopping: asyncio.Task[bool]
    ) -> None:
        port = self.listener.getsockname()[1]
        shown = joined("127.0.0.1" if self.host in ("", "0.0.0.0", "::") else self.host, port)
        ticket = _ticket(self.hub.folder, self.identity, addresses)
        self.hub.register.add_ticket(ticket)
        app = make_app(self.hub, self.identity.pin, addresses)
        if self.door is not None:
            app.include_router(self.door.router(self.hub, self.identity.pin, addresses))
        if self.tunnel:
            app.include_router(tunnel_router(shown))
        guard = Guard(self.hub.log)
        server = _Server(config_of(Guarded(app, guard), self.identity.key, self.identity.certificate))
        serving = asyncio.create_task(server.serve(sockets=[GuardedListener(self.listener, guard)]))
        while not (server.started or serving.done()):
            await asyncio.sleep(0.01)
        try:
            if server.started:
                shorten_pauses()
                digits = self.door.digits if self.door is not None else ""
                quota = PROGRAMS[self.tunnel].quota if self.tunnel else ""
                announce(Announced(ticket.text(), f"https://{shown}", digits, quota))
            while not (serving.done() or stopping.done()):
                guard.look()
                await asyncio.wait([serving, stopping], timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            server.force_exit, server.should_exit = server.should_exit, True
            await serving


def reachable_at(host: str) -> list[str]:
    """Addresses at which others may find a process that listens at `host`: of every network, for one that listens everywhere."""
    if host not in ("", "0.0.0.0", "::"):
        return [host]
    found: list[str] = []
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))  # nothing is sent
            found.append(probe.getsockname()[0])
    with contextlib.suppress(OSError):
        found += [str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)]
    away = [name for name in dict.fromkeys(found) if not name.startswith(("127.", "::1", "fe80:"))]
    return [*away, "127.0.0.1"]


def _ticket(folder: Path, identity: Identity, addresses: tuple[str, ...]) -> Ticket:
    """The owner's: the same as long as the folder is, with the addresses of today."""
    known = Ticket.parse(_kept(folder / TICKET, lambda: draw(Role.OWNER, identity.pin, addresses).text()))
    return replace(known, addresses=addresses)


def _kept(path: Path, make: Callable[[], str]) -> str:
    """What is in the file, or is put into it now; nobody else may read it. Raises UsageError."""
    try:
        if not path.exists():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
                file.write(make())
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise UsageError(f"cannot write to {path.parent} ({error.strerror})", "choose another --state") from error


@contextlib.contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Of one coordinator at a time."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"cannot write to {folder} ({error.strerror})", "choose another --state") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"another coordinator uses {folder}", "choose another --state, or stop that one") from None
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        os.close(handle)


def _parted(address: str) -> tuple[str, int]:
    try:
        host, port = parted(address)
    except ValueError:
        raise UsageError(f"--listen {address} is no address", "write HOST:PORT, such as 0.0.0.0:7946") from None
    return host, port
