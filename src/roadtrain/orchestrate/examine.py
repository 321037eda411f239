"""What stands in the way of training on this machine, and between it and a fleet: one check, one sentence."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import shutil
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from roadtrain.errors import RoadtrainError, UsageError
from roadtrain.launch.cores import cores
from roadtrain.orchestrate.checkup import DIAL_S, WORD_BYTES, DialBack
from roadtrain.orchestrate.connection import Connection
from roadtrain.version import VERSION

DISK_BYTES, MEMORY_BYTES, FILES = 2_000_000_000, 1_000_000_000, 256
"""With less than this something is to be mended."""
CLOCK_S = 30.0
ROUND_TRIPS = 7
TRIED_BYTES = (200_000, 4_000_000)
LONG_S = 0.5
"""A rate is measured with more bytes, if the first took no longer than this."""


@dataclass(frozen=True, slots=True)
class Check:
    """`detail`: one sentence; where it is not `ok`, with what to do."""

    name: str
    ok: bool
    detail: str


# -------------------------------------------------------------------------------------------------------- this machine


def examine_here(folder: Path) -> Iterator[Check]:
    """This machine by itself; runs would go to `folder`."""
    yield _versions()
    yield _device()
    yield _disk(folder)
    yield _memory()
    yield _open_files()
    yield _port()


def _versions() -> Check:
    try:
        torch = version("torch")
    except PackageNotFoundError:
        return Check("version", False, "torch is not installed: pip install torch")
    return Check("version", True, f"roadtrain {VERSION}, Python {platform.python_version()}, torch {torch}")


def _device() -> Check:
    import torch

    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        return Check("device", True, f"{torch.accelerator.device_count()} {kind}, and {cores()} CPU cores")
    if shutil.which("nvidia-smi"):
        why = f"there is an NVIDIA driver, but torch {torch.__version__} finds no GPU: install a torch built for CUDA"
        return Check("device", False, why)
    return Check("device", True, f"no accelerator; {cores()} CPU cores")


def _disk(folder: Path) -> Check:
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    said = f"{free / 1e9:.1f} GB free in {there}"
    if not os.access(there, os.W_OK):
        return Check("disk", False, f"{there} cannot be written: choose another folder with --out")
    return Check("disk", free >= DISK_BYTES, said if free >= DISK_BYTES else f"only {said}: checkpoints need room")


def _memory() -> Check:
    free = _free_memory()
    said = f"{free / 1e9:.1f} GB of memory free"
    return Check("memory", free >= MEMORY_BYTES, said if free >= MEMORY_BYTES else f"only {said}: close something")


def _free_memory() -> float:
    """In bytes; where the system does not tell what is free, all of it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _open_files() -> Check:
    try:
        import resource
    except ImportError:
        return Check("open files", True, "the system does not say how many files may be open")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wrong = 0 <= soft < FILES
    return Check(
        "open files", not wrong, f"{soft} files may be open{': raise it with ulimit -n 4096' if wrong else ''}"
    )


def _port() -> Check:
    try:
        with socket.create_server(("", 0)) as free:
            return Check("port", True, f"a port can be opened here, such as {free.getsockname()[1]}")
    except OSError as error:
        return Check("port", False, f"no port can be opened here ({error.strerror}): join with --no-listen")


# --------------------------------------------------------------------------------------------------- the way to a fleet


def examine_way(connection: Connection) -> Iterator[Check]:
    """The way to the coordinator and back, and what is known of those between its machines."""
    began = time.time()
    there = _asked(connection, "/health")
    clock = (began + time.time()) / 2
    yield Check("reach out", True, f"the coordinator answers at {connection.address}")
    yield _same_version(there["version"])
    off = there["time_s"] - clock
    said = f"this clock and the coordinator's differ by {abs(off):.1f} s"
    yield Check("clock", abs(off) < CLOCK_S, said if abs(off) < CLOCK_S else f"{said}: set it, for example by NTP")
    yield _latency(connection)
    yield from _bandwidth(connection)
    yield _reach_back(connection)
    yield from _between_machines(connection)


def _asked(connection: Connection, path: str) -> Any:
    return msgspec.json.decode(connection.ask("GET", path))


def _same_version(theirs: str) -> Check:
    same = theirs == VERSION
    said = f"the coordinator runs roadtrain {theirs}"
    return Check("same version", same, said if same else f"{said}, this machine {VERSION}: install the same one")


def _latency(connection: Connection) -> Check:
    took: list[float] = []
    for _ in range(ROUND_TRIPS):
        began = time.perf_counter()
        connection.ask("GET", "/health")
        took.append(time.perf_counter() - began)
    return Check("latency", True, f"a request to the coordinator takes {1000 * statistics.median(took):.1f} ms")


def _bandwidth(connection: Connection) -> Iterator[Check]:
    for name, carry in (
        ("bandwidth to", lambda size: connection.bring("/api/measure", bytes(size))),
        ("bandwidth from", lambda size: connection.ask("GET", "/api/measure", size=size)),
    ):
        rate = _rate(carry)
        yield Check(name, True, f"{rate:.1f} Mbit/s at least {name.split()[1]} the coordinator")


def _rate(carry: Callable[[int], object]) -> float:
    """In Mbit/s."""
    took = 0.0
    size = 0
    for size in TRIED_BYTES:
        began = time.perf_counter()
        carry(size)
        took = time.perf_counter() - began
        if took > LONG_S:
            break
    return size * 8 / took / 1e6


def _reach_back(connection: Connection) -> Check:
    """Whether others can dial this machine, as the coordinator sees it."""
    name, word = "reach back", secrets.token_hex(WORD_BYTES // 2)
    try:
        with socket.create_server(("", 0)) as server:
            server.settimeout(2 * DIAL_S)
            port = server.getsockname()[1]
            threading.Thread(target=_say, args=(server, word.encode()), name="dialled", daemon=True).start()
            said = msgspec.json.decode(connection.ask("POST", "/api/dial", DialBack(port, word)))
    except OSError as error:
        return Check(name, True, f"no port can be opened here ({error.strerror}): this machine dials out")
    if said["reached"]:
        return Check(name, True, f"the coordinator can dial this machine at {said['host']}")
    return Check(
        name, True, f"{said['host']} cannot be dialled: this machine dials out; two such meet through the relay"
    )


def _say(server: socket.socket, word: bytes) -> None:
    """To the first that dials."""
    with contextlib.suppress(OSError):
        other, _ = server.accept()
        with other:
            other.sendall(word)


def _between_machines(connection: Connection) -> Iterator[Check]:
    """What machines have measured of the ways between them."""
    try:
        machines, links = _asked(connection, "/machines"), _asked(connection, "/links")
    except UsageError as error:
        yield Check("machines", True, f"not shown: {error.message}")
        return
    here = [machine["machine"] for machine in machines if machine["state"] != "away"]
    known = {(link["from"], link["to"]): link for link in links}
    yield Check("machines", True, f"{', '.join(here)} joined" if here else "no machine has joined yet")
    for at, one in enumerate(here):
        for other in here[at + 1 :]:
            yield from _pair(one, other, known)


def _pair(one: str, other: str, known: dict[tuple[str, str], dict[str, Any]]) -> Iterator[Check]:
    link, back = known.get((one, other)), known.get((other, one))
    if link is None or link["rtt_ms"] is None:
        yield Check(f"reach {one} {other}", True, "not measured, or they do not reach each other and meet at the relay")
        return
    yield Check(f"latency {one} {other}", True, f"{link['rtt_ms']:.1f} ms there and back, {link['via']}")
    there, home = link["mb_per_s"], None if back is None else back["mb_per_s"]
    if there is not None and home is not None:
        said = f"{8 * there:.0f} Mbit/s at least, {8 * home:.0f} back"
        yield Check(f"bandwidth {one} {other}", True, said)


def examine(connection: Connection | None, folder: Path) -> Iterator[Check]:
    """All of it, as it is found. What cannot be looked at is a check that is not ok."""
    yield from examine_here(folder)
    if connection is not None:
        try:
            yield from examine_way(connection)
        except RoadtrainError as error:
            yield Check("fleet", False, error.line())
