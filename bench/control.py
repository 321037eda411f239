"""How long a control message waits behind payload on a slow line: two hosts, one of which sends 4 MB after 4 MB to the other.

    bench/control.py --wanlab PATH [--seconds N]

Needs root and wanlab. Every 50 ms a Pull (a few bytes) is sent, which says when; the hosts are on one machine and have one clock.
Both measure with payload on the line and, first, without: what comes on top of that, and of nothing else, is the payload's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time

import torch
from torch._C._distributed_c10d import TCPStore

from roadtrain.codec import parse
from roadtrain.message import Envelope, Pull, Push
from roadtrain.wire.address import joined
from roadtrain.wire.carrier import GrpcCarrier
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.limits import Limits

PAYLOAD = 4_000_000
"""Bytes of each message of payload."""
EVERY_S = 0.05
SETTLING_S = 5.0
"""The pace of a line is found in so long, and not counted."""
LINES = (("10mbit", "10ms"), ("20mbit", "25ms"), ("100mbit", "25ms"))
"""Rate, and one way."""


def main() -> None:
    """Every line, as a table; or one end of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wanlab", default="wanlab")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--end", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.end:
        asyncio.run(end(given.seconds))
        return
    print("| line, one way | without payload | with payload: median | 95% | longest |\n|---|---|---|---|---|")
    for rate, delay in LINES:
        quiet, busy = measured(given.wanlab, rate, delay, given.seconds)
        high = sorted(busy)[int(0.95 * len(busy))]
        figures = " | ".join(
            f"{1e3 * value:.0f} ms" for value in (statistics.median(quiet), statistics.median(busy), high)
        )
        print(f"| {rate}, {delay} | {figures} | {1e3 * max(busy):.0f} ms |", flush=True)


def measured(wanlab: str, rate: str, delay: str, seconds: float) -> tuple[list[float], list[float]]:
    """Seconds on the way of each message, without payload and with it."""
    command = [wanlab, "run", "--hosts", "2", "--rate", rate, "--delay", delay, "--torch", "--no-prefix", "--quiet"]
    command += ["--timeout", "300", "--", sys.executable, __file__, "--end", "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith('{"quiet"')]
    if not found:
        sys.exit(f"no figures over {rate}: {done.stderr}")
    figures = json.loads(found[0])
    return figures["quiet"], figures["busy"]


async def end(seconds: float) -> None:
    """One host's part: the first sends, the second measures."""
    rank, host = int(os.environ["RANK"]), os.environ["MASTER_ADDR"]
    store = TCPStore(host, int(os.environ["MASTER_PORT"]), 2, rank == 0)
    carrier = GrpcCarrier(Credentials("bench", secure=True), None, Limits(message=2 * PAYLOAD))
    me, other = ("a", "b") if rank == 0 else ("b", "a")
    own = host if rank == 0 else host.rpartition(".")[0] + f".{int(host.rpartition('.')[2]) + 1}"
    store.set(me, joined(own, await carrier.listen(own)))
    carrier.join(me, 1)
    carrier.connect({other: store.get(other).decode()}, {other: 1})
    await (send(carrier, seconds) if rank == 0 else measure(carrier))
    store.set(f"over {rank}", "")
    await asyncio.to_thread(store.wait, [f"over {1 - rank}"])
    await carrier.close()


async def send(carrier: GrpcCarrier, seconds: float) -> None:
    """Questions, at first alone and then beside payload; the last one has the clock 0."""
    packet = parse("none").encode(torch.randn(PAYLOAD // 4))

    def say(message: Push | Pull) -> None:
        carrier.send(Envelope("a", "b", 1, 1, message))

    clock = 0
    for payload in (False, True):
        until, queued = time.monotonic() + SETTLING_S + seconds, carrier.meter.sent
        while time.monotonic() < until:
            if payload and queued - carrier.meter.sent < PAYLOAD:
                clock += 1  # what is under way is not said twice
                say(Push(0, clock, 0, 1.0, packet))
                queued += PAYLOAD
            say(Pull(int(payload), time.monotonic_ns()))
            await asyncio.sleep(EVERY_S)
    say(Pull(2, 0))


async def measure(carrier: GrpcCarrier) -> None:
    """Print how long each question was on its way."""
    found: dict[int, list[tuple[float, float]]] = {0: [], 1: []}
    while True:
        event = await carrier.receive(None)
        if isinstance(event, Envelope) and isinstance(event.message, Pull):
            if event.message.fragment == 2:
                break
            now = time.monotonic_ns()
            found[event.message.fragment].append((now / 1e9, (now - event.message.clock) / 1e9))
    settled = {kind: [s for at, s in times if at > times[0][0] + SETTLING_S] for kind, times in found.items()}
    print(json.dumps({"quiet": settled[0], "busy": settled[1]}), flush=True)


if __name__ == "__main__":
    main()
