"""`roadtrain coordinator`: serves a fleet until it is asked to stop. All that it knows is in its folder."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import signal
import socket
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn

from roadtrain.errors import UsageError
from roadtrain.fleet.serving import listen
from roadtrain.fleet.sessions import FRAME_BYTES_MAX
from roadtrain.fleet.tls_buffers import use_small_tls_buffers
from roadtrain.orchestrate.app import make_app
from roadtrain.orchestrate.guard import LOOK_S, Guard, Guarded, GuardedListener
from roadtrain.orchestrate.hub import Hub
from roadtrain.orchestrate.identity import Identity
from roadtrain.orchestrate.pauses import shorten_pauses
from roadtrain.orchestrate.register import Register
from roadtrain.orchestrate.ticket import Role, Ticket, draw
from roadtrain.wire.address import joined, parted

TICKET, SECRET = "ticket", "secret"
"""Files that nobody else may read: the owner's ticket, and what runs' secrets are made of."""


@dataclass(frozen=True, slots=True)
class Announced:
    """Where the coordinator is, and the ticket that may do everything."""

    ticket: str
    url: str


def serve(address: str, folder: Path, announce: Callable[[Announced], None]) -> None:
    """Serve at `address` (host:port) until SIGTERM or SIGINT. `announce` is told when others can come.

    Raises UsageError for a port in use, and a folder that cannot be written or has a coordinator already.
    """
    host, port = _parted(address)
    with _locked(folder):
        use_small_tls_buffers()
        listener = listen(host, port)
        port = listener.getsockname()[1]
        identity = Identity.of(folder)
        addresses = tuple(joined(name, port) for name in reachable_at(host))
        ticket = _ticket(folder, identity, addresses)
        register = Register(folder)
        register.add_ticket(ticket)
        hub = Hub(register, folder, bytes.fromhex(_kept(folder / SECRET, lambda: secrets.token_hex(32))))
        guard = Guard(hub.log)
        config = uvicorn.Config(
            Guarded(make_app(hub, identity.pin, addresses), guard),
            log_level="critical",
            lifespan="on",
            ws="websockets-sansio",
            ws_max_size=FRAME_BYTES_MAX,
            ws_ping_interval=None,
            proxy_headers=False,  # who connects is who it is, whatever its headers say
            timeout_graceful_shutdown=1,
            ssl_keyfile=str(identity.key),
            ssl_certfile=str(identity.certificate),
        )
        shown = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host
        try:
            asyncio.run(
                _serve(
                    _Server(config),
                    GuardedListener(listener, guard),
                    guard,
                    lambda: announce(Announced(ticket.text(), f"https://{joined(shown, port)}")),
                )
            )
        finally:
            hub.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """They are heard outside: uvicorn would end by them once more."""
        yield


async def _serve(server: _Server, listener: socket.socket, guard: Guard, ready: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, _stop, server)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not (server.started or serving.done()):
        await asyncio.sleep(0.01)
    if server.started:
        shorten_pauses()
        ready()
    while not serving.done():
        guard.look()
        await asyncio.wait([serving], timeout=LOOK_S)
    await serving


def _stop(server: uvicorn.Server) -> None:
    server.force_exit, server.should_exit = server.should_exit, True


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
