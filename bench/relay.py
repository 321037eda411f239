"""What a relay costs: the rate from one worker to another directly, and through a relay, over lines of the same kind.

    bench/relay.py --wanlab PATH [--seconds N]

Needs root and wanlab. Three hosts with a line between any two; the third has the relay, as the coordinator has it, encrypted. How
long whatever else its event loop has to do is held up, heartbeats above all, is asked of the loop itself, every 10 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from typing import Any

import torch
from torch._C._distributed_c10d import TCPStore
from websockets.exceptions import InvalidState

from roadtrain.codec import parse
from roadtrain.fleet.serving import listen, server_of
from roadtrain.launch.relay import relay_app
from roadtrain.message import Envelope, Push
from roadtrain.wire.address import joined
from roadtrain.wire.carrier import GrpcCarrier
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.limits import Limits
from roadtrain.wire.relay import Relay

CREDENTIALS = Credentials("bench", secure=True)
PAYLOAD = 4_000_000
"""Bytes of each message."""
SETTLING_S = 4.0
"""The pace of a line is found in so long, and not counted."""
LINES = (("100mbit", "0ms"), ("100mbit", "10ms"), ("1gbit", "0ms"), ("1gbit", "10ms"))
"""Rate, and one way."""
RELAY_PORT = 29600
LOOK_S = 0.01


def main() -> None:
    """Every line, as a table; or one host of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wanlab", default="wanlab")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--host", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.host:
        asyncio.run(host(given.seconds))
        return
    print(
        "| line, one way | direct, MB/s | through the relay | of it | held up: 99% | longest | relay's CPU, s per GB |"
    )
    print("|---|---|---|---|---|---|---|")
    for rate, delay in LINES:
        found = measured(given.wanlab, rate, delay, given.seconds)
        direct, relayed, late = found["direct"], found["relay"], sorted(found["late"])
        figures = f"{direct:.1f} | {relayed:.1f} | {relayed / direct:.0%}"
        held_up = f"{1e3 * late[int(0.99 * len(late))]:.1f} ms | {1e3 * late[-1]:.0f} ms"
        print(f"| {rate}, {delay} | {figures} | {held_up} | {found['cpu']:.1f} |", flush=True)


def measured(wanlab: str, rate: str, delay: str, seconds: float) -> dict[str, Any]:
    """MB/s by way, seconds by which the relay's loop was late, its processor time."""
    command = [wanlab, "run", "--hosts", "3", "--rate", rate, "--delay", delay, "--torch", "--no-prefix", "--quiet"]
    command += ["--timeout", "300", "--", sys.executable, __file__, "--host", "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if len(found) != 2:
        sys.exit(f"no figures over {rate}: {done.stdout}{done.stderr}")
    return found[0] | found[1]


async def host(seconds: float) -> None:
    """One host's part: the relay, who sends, who measures."""
    rank, master = int(os.environ["RANK"]), os.environ["MASTER_ADDR"]
    store = TCPStore(master, int(os.environ["MASTER_PORT"]), 3, rank == 0)
    if rank == 0:
        await relay(master, store)
        return
    rates: dict[str, float] = {}
    own = master.rpartition(".")[0] + f".{int(master.rpartition('.')[2]) + rank}"
    for way in ("direct", "relay"):
        rates[way] = await end(rank, way, own, master, store, seconds)
    if rank == 2:
        print(json.dumps(rates), flush=True)
    store.set(f"over {rank}", "")


async def relay(address: str, store: TCPStore) -> None:
    """Serve until both are done; print how late the loop was while bytes passed."""
    server = server_of(relay_app(CREDENTIALS), CREDENTIALS)
    serving = asyncio.create_task(server.serve(sockets=[listen(address, RELAY_PORT)]))
    late: list[float] = []

    async def look() -> None:
        while True:
            due = time.monotonic() + LOOK_S
            await asyncio.sleep(LOOK_S)
            late.append(time.monotonic() - due)

    looking = asyncio.create_task(look())
    await asyncio.to_thread(store.wait, ["relay begins"])
    late.clear()
    cpu = time.process_time()
    await asyncio.to_thread(store.wait, ["relay ends"])
    cpu = time.process_time() - cpu
    looking.cancel()
    carried = float(store.get("relay ends").decode())
    print(json.dumps({"late": late, "cpu": cpu / carried * 1e9}), flush=True)
    await asyncio.to_thread(store.wait, ["over 1", "over 2"])
    server.should_exit = True
    with contextlib.suppress(InvalidState):  # of a connection that is closing already
        await serving


async def end(rank: int, way: str, own: str, master: str, store: TCPStore, seconds: float) -> float:
    """MB/s that came in, of whoever receives."""
    direct = way == "direct"
    at = None if direct else Relay.with_token(f"wss://{joined(master, RELAY_PORT)}", CREDENTIALS)
    carrier = GrpcCarrier(CREDENTIALS, None, Limits(message=2 * PAYLOAD), at)
    port = await carrier.listen(own if direct else None)
    me, other = ("a", "b") if rank == 1 else ("b", "a")
    store.set(f"{way} {me}", joined(own, port) if direct else "")
    carrier.join(me, 1)
    carrier.connect({other: (await asyncio.to_thread(store.get, f"{way} {other}")).decode()}, {other: 1})
    working = asyncio.create_task(send(carrier) if rank == 1 else take(carrier))
    while not carrier.links():
        await asyncio.sleep(0.01)
    await asyncio.sleep(SETTLING_S)
    if rank == 2:
        store.set(f"{way} begins", "")
    before, began = carrier.meter.received, time.monotonic()
    await asyncio.sleep(seconds)
    received, took = carrier.meter.received - before, time.monotonic() - began
    if rank == 2:
        assert {state.via.value for state in carrier.links().values()} == {way}
        store.set(f"{way} ends", str(received))
    await asyncio.to_thread(store.wait, [f"{way} ends"])
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working
    await carrier.close()
    return received / took / 1e6


async def send(carrier: GrpcCarrier) -> None:
    """One message after the other, two under way."""
    packet = parse("none").encode(torch.randn(PAYLOAD // 4))
    clock, queued = 0, carrier.meter.sent
    while True:
        if queued - carrier.meter.sent < PAYLOAD:
            clock += 1
            carrier.send(Envelope("a", "b", 1, 1, Push(0, clock, 0, 1.0, packet)))
            queued += PAYLOAD
        await asyncio.sleep(0.002)


async def take(carrier: GrpcCarrier) -> None:
    while True:
        await carrier.receive(None)


if __name__ == "__main__":
    main()
