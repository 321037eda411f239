"""The programs that make a tunnel, each a process of its own: started, and read for the address that they have been given."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from roadtrain.errors import RunFailed, UsageError

OPEN_S = 60.0
"""So long one may take to get an address."""
LINES_KEPT = 3


@dataclass(frozen=True, slots=True)
class Program:
    """`words`: what it is started with for a port. `address`: finds, in a line that it prints, what goes on the ticket.
    `quota`: what costs nothing, as its maker's documentation has it (November 2026)."""

    name: str
    words: Callable[[int], list[str]]
    address: Callable[[str], str | None]
    quota: str


def _ngrok_address(line: str) -> str | None:
    found = re.search(r"tcp://([\w.-]+:\d+)", line)
    return found[1] if found is not None and "localhost" not in found[1] else None


def _cloudflare_address(line: str) -> str | None:
    found = re.search(r"https://([\w-]+\.trycloudflare\.com)\b", line)
    return f"wss://{found[1]}" if found is not None and found[1] != "api.trycloudflare.com" else None


PROGRAMS = {
    "ngrok": Program(
        "ngrok",
        lambda port: ["tcp", str(port), "--log", "stdout", "--log-format", "json"],
        _ngrok_address,
        "a free account of ngrok carries 1 GB and 5,000 connections a month, and wants a payment card for TCP",
    ),
    "cloudflared": Program(
        "cloudflared",
        lambda port: ["tunnel", "--no-autoupdate", "--no-tls-verify", "--url", f"https://127.0.0.1:{port}"],
        _cloudflare_address,
        "a quick tunnel of Cloudflare wants no account, carries 200 connections at a time, is given a new address at every "
        "start, and nobody promises that it stays up",
    ),
}


@contextlib.asynccontextmanager
async def opened(program: Program, port: int, gone: Callable[[], None]) -> AsyncIterator[str]:
    """While others reach `port` of this machine at what this yields, as it goes on a ticket. `gone` is told when the program ends
    by itself. Raises UsageError where it is not there, and RunFailed where it gets no address."""
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            program.name,
            *program.words(port),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=asyncio.subprocess.STDOUT,
        )
    except (FileNotFoundError, PermissionError) as error:
        hint = f"install it, and have it in the PATH; {program.quota}"
        raise UsageError(
            f"--tunnel {program.name} wants the program {program.name}, which is not here", hint
        ) from error
    assert process.stdout is not None
    emptying: asyncio.Task[None] | None = None
    try:
        address = await _address(program, process.stdout)
        emptying = asyncio.create_task(_empty(process.stdout, gone))
        yield address
    finally:
        if emptying is not None:
            emptying.cancel()
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _address(program: Program, stdout: asyncio.StreamReader) -> str:
    said: list[str] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(OPEN_S):
            while raw := await stdout.readline():
                line = raw.decode(errors="replace").strip()
                if (address := program.address(line)) is not None:
                    return address
                said = [*said, line][-LINES_KEPT:]
    raise RunFailed(f"{program.name} has made no tunnel: {' / '.join(said)[-500:] or 'it said nothing'}")


async def _empty(stdout: asyncio.StreamReader, gone: Callable[[], None]) -> None:
    """What it prints later: read, so that it is not held up."""
    while await stdout.read(1 << 16):
        pass
    gone()
